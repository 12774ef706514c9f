// Distances of marks on the axis that are round to somebody who reads minutes and hours.
const ROUND_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];

const timeline = {
  from: 0,
  to: DATA.length,
  height: 0,

  get span() {
    return this.to - this.from;
  },
  // Further in, coordinates would no longer be exact to a pixel.
  least: Math.max(2, DATA.length / 8000),

  build() {
    this.plot = $("plot");
    this.drawing = $("drawing");
    this.height = Number(this.drawing.getAttribute("height"));
    this.workers = new Map();
    for (const test of TESTS) {
      if (!this.workers.has(test.worker)) this.workers.set(test.worker, []);
      this.workers.get(test.worker).push(test);
    }
    for (const list of this.workers.values()) list.sort((a, b) => a.start - b.start);
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => this.command(button.dataset.zoom));
    }
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  },

  command(name) {
    const middle = (this.from + this.to) / 2;
    if (name === "in") this.zoom(middle, 0.5);
    if (name === "out") this.zoom(middle, 2);
    if (name === "left") this.move(-0.25 * this.span);
    if (name === "right") this.move(0.25 * this.span);
    if (name === "fit") this.set(0, DATA.length);
  },

  listen() {
    const keys = {
      "+": "in",
      "=": "in",
      "-": "out",
      ArrowLeft: "left",
      ArrowRight: "right",
      0: "fit",
      Home: "fit",
    };
    $("lanes").addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      this.command(keys[event.key]);
    });
    this.plot.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.plot.addEventListener("dblclick", (event) => this.zoom(this.at(event), 0.25));
    this.plot.addEventListener("pointerdown", (event) => this.grab(event));
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    const leave = () => {
      $("tip").hidden = true;
    };
    this.plot.addEventListener("pointerleave", leave);
    addEventListener("scroll", leave, { passive: true });
  },

  wheel(event) {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
    // The wheel alone scrolls the page: nobody is caught in a chart on the way down.
    if (!sideways && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const delta = event.deltaX || event.deltaY;
    if (sideways) this.move((delta / this.plot.clientWidth) * this.span);
    else this.zoom(this.at(event), Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.01));
  },

  grab(event) {
    if (event.button !== 0) return;
    const [x, from, scale] = [event.clientX, this.from, this.span / this.plot.clientWidth];
    let moved = false;
    const drag = (now) => {
      if (!moved && Math.abs(now.clientX - x) < 4) return;
      if (!moved) this.plot.setPointerCapture(event.pointerId);
      moved = true;
      this.plot.classList.add("dragged");
      const start = from - (now.clientX - x) * scale;
      this.set(start, start + this.span);
    };
    const drop = (now) => {
      this.plot.removeEventListener("pointermove", drag);
      this.plot.classList.remove("dragged");
      if (!moved && now.type === "pointerup") this.click(now);
    };
    this.plot.addEventListener("pointermove", drag);
    this.plot.addEventListener("pointerup", drop, { once: true });
    this.plot.addEventListener("pointercancel", drop, { once: true });
  },

  at(event) {
    const box = this.plot.getBoundingClientRect();
    return this.from + ((event.clientX - box.left) / box.width) * this.span;
  },

  zoom(around, factor) {
    const span = Math.min(DATA.length, Math.max(this.least, this.span * factor));
    const share = (around - this.from) / this.span;
    this.set(around - share * span, around + (1 - share) * span);
  },

  move(by) {
    this.set(this.from + by, this.to + by);
  },

  set(from, to) {
    const span = Math.min(to - from, DATA.length);
    this.from = Math.max(0, Math.min(from, DATA.length - span));
    this.to = this.from + span;
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  },

  draw() {
    this.drawing.setAttribute("viewBox", `${this.from} 0 ${this.span} ${this.height}`);
    this.drawAxis();
    this.drawNames();
  },

  x(ms) {
    return ((ms - this.from) / this.span) * this.plot.clientWidth;
  },

  drawAxis() {
    const rough = this.span / Math.max(2, this.plot.clientWidth / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const steps =
      rough > 500
        ? ROUND_SECONDS.map((one) => one * 1000)
        : [1, 2, 5, 10].map((one) => one * power);
    const step = steps.find((one) => one >= rough) ?? Math.ceil(rough / 3.6e6) * 3.6e6;
    const ticks = [];
    for (let n = Math.ceil(this.from / step); n * step <= this.to; n++) {
      const tick = el("span", { text: this.time(n * step, step) });
      tick.style.left = `${this.x(n * step)}px`;
      ticks.push(tick);
    }
    $("axis").replaceChildren(...ticks);
  },

  time(ms, step) {
    if (ms === 0) return "0";
    const digits = step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : 3;
    const unit = 10 ** (3 - digits);
    const whole = Math.round(ms / unit) * unit;
    const minutes = Math.floor(whole / 60000);
    const rest = ((whole - minutes * 60000) / 1000).toFixed(digits);
    if (!minutes) return `${rest} s`;
    const seconds = rest.padStart(digits ? digits + 3 : 2, "0");
    if (minutes < 60) return `${minutes}:${seconds}`;
    return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${seconds}`;
  },

  // Names go where there is room for them; the bars themselves are stretched, text must not be.
  drawNames() {
    const names = [];
    const put = (lane, start, end, text, kind) => {
      const left = Math.max(0, this.x(start));
      const room = Math.min(this.plot.clientWidth, this.x(end)) - left;
      if (room < 44 || names.length > 300) return;
      const name = el("span", { class: kind, text });
      name.style.left = `${left}px`;
      name.style.top = `${lane.y}px`;
      name.style.width = `${room}px`;
      names.push(name);
    };
    for (const lane of DATA.lanes) {
      if (lane.kind === "server")
        for (const [start, end, text, kind] of lane.p) put(lane, start, end, text, kind);
      else for (const test of this.visible(lane)) this.putTest(put, lane, test);
    }
    $("names").replaceChildren(...names);
  },

  putTest(put, lane, test) {
    const [setup, call] = test.phases;
    // A start that a test waited for is in its setup: the name stands at the test itself.
    if (call) put(lane, test.start + setup, test.start + setup + call, test.name, test.outcome);
    else put(lane, test.start, test.start + test.ms, test.name, "around");
    if (call && setup) put(lane, test.start, test.start + setup, "setup", "around");
  },

  testsOf(lane) {
    return this.workers.get(lane.label) ?? this.workers.get("") ?? [];
  },

  visible(lane) {
    const list = this.testsOf(lane);
    const first = Math.max(0, this.before(list, this.from) - 1);
    const last = this.before(list, this.to);
    // What is too narrow for a name is not worth a look.
    return last - first > 2000
      ? list.slice(first, last).filter((test) => test.ms / this.span > 0.03)
      : list.slice(first, last);
  },

  before(list, ms) {
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle].start <= ms) low = middle + 1;
      else high = middle;
    }
    return low;
  },
};
