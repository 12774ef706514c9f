const failures = {
  STEP: 20,
  filled: 0,

  // The line that says what went wrong: the first of pytest's last words about an error, since
  // those before it tell of its causes; or the last line there is.
  why(test) {
    const text = (DATA.details[test.index] ?? [""])[0].trimEnd();
    const lines = text.split("\n");
    let at = lines.findLastIndex((one) => one.startsWith("E "));
    while (at > 0 && lines[at - 1].startsWith("E ")) at -= 1;
    const line = at < 0 ? lines[lines.length - 1] : lines[at];
    return line.replace(/^E\s+/, "").slice(0, 300);
  },

  entry(test, open) {
    const summary = el(
      "summary",
      {},
      markOf(test),
      el(
        "span",
        { class: "what" },
        el("span", { class: "file", text: `${test.file} ` }),
        el("b", { text: test.name }),
      ),
      el("span", { class: "why", text: this.why(test) }),
    );
    const entry = el("details", { class: "failure" }, summary);
    // Thousands of tracebacks are made when somebody looks.
    const fill = () => {
      if (entry.open && entry.childElementCount === 1) entry.append(detailsOf(test));
    };
    entry.addEventListener("toggle", fill);
    entry.open = open;
    fill();
    return entry;
  },

  fill(many) {
    const list = $("failure-list");
    list.querySelector(".further")?.remove();
    const next = BAD.slice(this.filled, this.filled + many);
    list.append(...next.map((test) => this.entry(test, BAD.length <= 3)));
    this.filled += next.length;
    const left = BAD.length - this.filled;
    if (!left) return;
    const button = el("button", {
      type: "button",
      text: `Show ${Math.min(left, this.STEP)} more of ${count(left)}`,
      onclick: () => this.fill(this.STEP),
    });
    list.append(el("p", { class: "further" }, button));
  },

  openAll() {
    for (const entry of document.querySelectorAll(".failure")) entry.open = true;
  },
};
