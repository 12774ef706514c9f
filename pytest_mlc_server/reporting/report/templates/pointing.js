// What is under the pointer, and what a click on it does.
Object.assign(timeline, {
  laneAt(event) {
    const y = event.clientY - this.drawing.getBoundingClientRect().top;
    return [DATA.lanes.find((lane) => y >= lane.y - 3 && y < lane.y + lane.h + 3), y];
  },

  testAt(lane, ms) {
    const list = this.testsOf(lane);
    const slack = (3 / this.plot.clientWidth) * this.span;
    const next = this.before(list, ms + slack);
    return list
      .slice(Math.max(0, next - 3), next)
      .reverse()
      .find((test) => ms <= test.start + test.ms + slack);
  },

  point(event) {
    const [lane, y] = this.laneAt(event);
    const lines = lane ? this.told(lane, y, this.at(event)) : [];
    $("tip").hidden = !lines.length;
    this.plot.classList.toggle("over", Boolean(lines.length && lane.kind === "worker"));
    if (!lines.length) return;
    $("tip").replaceChildren(...lines.map((text, at) => el(at ? "div" : "b", { text })));
    const box = $("tip").getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 18 + box.height < innerHeight;
    $("tip").style.left = `${Math.max(8, left)}px`;
    $("tip").style.top = `${below ? event.clientY + 18 : event.clientY - box.height - 12}px`;
  },

  told(lane, y, ms) {
    const slack = (4 / this.plot.clientWidth) * this.span;
    if (lane.kind === "server") {
      const near = lane.p.filter(([start, end]) => start - slack <= ms && ms <= end + slack);
      const one =
        near.find(([, , , kind]) => kind === "incident") ??
        near.find(([start, end]) => start <= ms && ms <= end) ??
        near[0];
      if (!one) return [];
      const [start, end, text, kind] = one;
      const when =
        kind === "incident"
          ? `at ${this.time(start, 1)}`
          : `${duration(end - start)} from ${this.time(start, 10)}`;
      return [text, when, lane.label];
    }
    const test = this.testAt(lane, ms);
    if (!test) return [];
    const request = this.requestAt(test, lane, y, ms, slack);
    if (request) {
      const status = request.status ?? (request.error || "");
      const tokens = request.completion == null ? "" : `, ${plural(request.completion, "token")}`;
      return [
        request.what,
        `${status}${status ? ", " : ""}${duration(request.ms)}${tokens}`,
        request.error,
        test.name,
      ].filter(Boolean);
    }
    const asked = test.cost.requests ? plural(test.cost.requests, "request") : "";
    const tokens = test.cost.completion ? `${plural(test.cost.completion, "token")} generated` : "";
    const cost = [asked, tokens].filter(Boolean).join(", ");
    return [
      test.name,
      test.file,
      `${test.outcome}, ${duration(test.ms)} from ${this.time(test.start, 10)}`,
      cost,
    ].filter(Boolean);
  },

  requestAt(test, lane, y, ms, slack) {
    const row = Math.floor((y - lane.y - 22) / 5);
    if (row < 0) return null;
    const inside = ms - test.start;
    return requestsOf(test).find(
      (one) =>
        one.place === row &&
        one.start - slack <= inside &&
        inside <= one.start + (one.ms ?? 0) + slack,
    );
  },

  click(event) {
    const [lane] = this.laneAt(event);
    const test = lane?.kind === "worker" ? this.testAt(lane, this.at(event)) : null;
    if (test) {
      this.mark(test);
      table.reveal(test);
    }
  },

  mark(test) {
    const lane = DATA.lanes.find(
      (one) => one.kind === "worker" && this.testsOf(one).includes(test),
    );
    const mark = { x: test.start, width: Math.max(test.ms, 0.1), y: lane.y - 2, height: 24 };
    for (const [name, value] of Object.entries(mark)) $("found").setAttribute(name, value);
  },

  show(test) {
    const around = Math.max(test.ms * 1.5, this.least, DATA.length / 400);
    this.mark(test);
    this.set(test.start + test.ms / 2 - around, test.start + test.ms / 2 + around);
    $("timeline").scrollIntoView({ block: "start" });
    $("lanes").focus({ preventScroll: true });
  },
});
