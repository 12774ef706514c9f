const STEP = 150;

const COLUMNS = [
  {
    key: "outcome",
    name: "Outcome",
    value: (t) => DATA.outcomes.indexOf(t.outcome),
    show: (t) => t.outcome,
  },
  { key: "name", name: "Test", value: (t) => t.found, text: true },
  {
    key: "worker",
    name: "Worker",
    value: (t) => t.worker.padStart(12),
    show: (t) => t.worker,
    text: true,
    when: () => HAS_WORKERS,
  },
  {
    key: "server",
    name: "Server",
    value: (t) => serverNames(t),
    show: (t) => serverNames(t),
    text: true,
    when: () => DATA.servers.length > 1,
  },
  { key: "ms", name: "Duration", value: (t) => t.ms, show: (t) => duration(t.ms), bar: true },
  {
    key: "requests",
    name: "Requests",
    value: (t) => t.cost.requests,
    show: (t) => count(t.cost.requests),
    cost: true,
  },
  {
    key: "errors",
    name: "Errors",
    value: (t) => t.cost.errors,
    show: (t) => count(t.cost.errors),
    cost: true,
  },
  {
    key: "prompt",
    name: "Tokens in",
    value: (t) => t.cost.prompt,
    show: (t) => count(t.cost.prompt),
    cost: true,
  },
  {
    key: "completion",
    name: "Tokens out",
    value: (t) => t.cost.completion,
    show: (t) => count(t.cost.completion),
    cost: true,
  },
  {
    key: "ttft",
    name: "First token",
    value: (t) => t.cost.ttft,
    show: (t) => firstToken(t.cost),
    cost: true,
  },
  {
    key: "speed",
    name: "Tokens/s",
    value: (t) => t.cost.speed,
    show: (t) => rate(t.cost.speed),
    cost: true,
  },
].filter((column) => (!column.when || column.when()) && (!column.cost || HAS_COST));

function serverNames(test) {
  return [...new Set(test.cost.servers.map((server) => DATA.servers[server]))].join(", ");
}

const table = {
  sort: { key: "ms", down: true },
  list: [],
  filled: 0,
  outcomes: new Set(),
  slowest: Math.max(1, ...TESTS.map((test) => test.ms)),

  compare(a, b) {
    const column = COLUMNS.find((one) => one.key === this.sort.key);
    const [x, y] = [column.value(a), column.value(b)];
    // What is not known comes last, whichever way is up.
    if (x == null || y == null) return (x == null) - (y == null) || a.index - b.index;
    const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return (this.sort.down ? -order : order) || a.index - b.index;
  },

  update() {
    const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [server, worker] = [$("filter-server").value, $("filter-worker").value];
    this.list = TESTS.filter(
      (test) =>
        words.every((one) => test.found.includes(one)) &&
        (!this.outcomes.size || this.outcomes.has(test.outcome)) &&
        (server === "" || test.cost.servers.includes(Number(server))) &&
        (worker === "" || test.worker === worker),
    );
    if (this.sort.key === "name") this.sortByName();
    else this.list.sort((a, b) => this.compare(a, b));
    $("rows").replaceChildren();
    this.filled = 0;
    this.fill(STEP);
    const all = this.list.length === TESTS.length;
    $("shown").textContent = all
      ? plural(TESTS.length, "test")
      : `${count(this.list.length)} of ${plural(TESTS.length, "test")}`;
  },

  // Comparing five thousand names as a person would takes a while: once is enough.
  sortByName() {
    const order = new Intl.Collator(undefined, { numeric: true });
    this.byName ??= [...TESTS].sort((a, b) => order.compare(a.found, b.found) || a.index - b.index);
    const wanted = new Set(this.list);
    this.list = this.byName.filter((test) => wanted.has(test));
    if (this.sort.down) this.list.reverse();
  },

  fill(many) {
    const next = this.list.slice(this.filled, this.filled + many);
    $("rows").append(...next.map((test) => this.row(test)));
    if (!this.list.length) {
      $("rows").append(
        el(
          "tr",
          { class: "none" },
          el("td", {
            colspan: COLUMNS.length,
            text: TESTS.length ? "No test fits." : "No tests ran.",
          }),
        ),
      );
    }
    this.filled += next.length;
    const left = this.list.length - this.filled;
    $("further").hidden = left === 0;
    $("further").textContent = `Show ${count(Math.min(left, STEP))} more of ${count(left)}`;
  },

  row(test) {
    const row = el("tr", { "data-test": test.index });
    for (const column of COLUMNS) row.append(this.cell(column, test));
    return row;
  },

  cell(column, test) {
    if (column.key === "outcome") {
      return el(
        "td",
        { class: `outcome ${test.outcome}` },
        markOf(test),
        el("span", { text: test.outcome }),
      );
    }
    if (column.key === "name") {
      const open = el(
        "button",
        {
          type: "button",
          class: "open",
          "aria-expanded": "false",
          onclick: () => this.toggle(test),
        },
        el("span", { class: "test", text: test.name }),
        " ",
        el("span", { class: "file", text: test.file }),
      );
      return el("th", { scope: "row" }, open);
    }
    const shared = column.cost && test.cost.shared && column.value(test);
    const node = el("td", {
      class: column.text ? null : "n",
      text: column.show(test) + (shared ? " *" : ""),
      title: shared ? test.cost.shared : null,
    });
    if (column.key === "errors" && test.cost.errors) node.classList.add("alarm");
    if (column.bar) {
      const bar = el("span", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${(100 * test.ms) / this.slowest}%`;
      node.append(bar);
    }
    return node;
  },

  rowOf(test) {
    return $("rows").querySelector(`tr[data-test="${test.index}"]`);
  },

  toggle(test, open) {
    const row = this.rowOf(test);
    const button = row.querySelector(".open");
    const expanded = button.getAttribute("aria-expanded") === "true";
    if (expanded === open) return;
    button.setAttribute("aria-expanded", String(!expanded));
    if (expanded) row.nextSibling.remove();
    else
      row.after(
        el("tr", { class: "expanded" }, el("td", { colspan: COLUMNS.length }, detailsOf(test))),
      );
  },

  // Brings a test into view, whatever is filtered away or not yet there.
  reveal(test) {
    if (!this.list.includes(test)) {
      this.clear();
      this.update();
    }
    const place = this.list.indexOf(test);
    if (place >= this.filled) this.fill(place - this.filled + 10);
    this.toggle(test, true);
    const row = this.rowOf(test);
    row.scrollIntoView({ block: "center" });
    row.querySelector(".open").focus({ preventScroll: true });
  },

  clear() {
    $("filter-text").value = $("filter-server").value = $("filter-worker").value = "";
    this.outcomes.clear();
    for (const chip of $("filter-outcomes").children) chip.setAttribute("aria-pressed", "false");
  },

  order(key) {
    const column = COLUMNS.find((one) => one.key === key);
    const down = this.sort.key === key ? !this.sort.down : !column.text && key !== "outcome";
    this.sort = { key, down };
    this.markSort();
    this.update();
  },

  markSort() {
    for (const head of $("columns").children) {
      const mine = head.dataset.key === this.sort.key;
      head.setAttribute("aria-sort", mine ? (this.sort.down ? "descending" : "ascending") : "none");
    }
  },

  build() {
    for (const column of COLUMNS) {
      const button = el("button", {
        type: "button",
        text: column.name,
        onclick: () => this.order(column.key),
      });
      $("columns").append(
        el(
          "th",
          {
            scope: "col",
            class: column.text || column.key === "outcome" ? null : "n",
            "data-key": column.key,
          },
          button,
        ),
      );
    }
    this.buildFilters();
    $("further").addEventListener("click", () => this.fill(STEP));
    $("shared-note").hidden = !TESTS.some((test) => test.cost.shared);
    this.markSort();
    this.update();
  },

  buildFilters() {
    for (const outcome of DATA.outcomes.filter((one) =>
      TESTS.some((test) => test.outcome === one),
    )) {
      $("filter-outcomes").append(
        el("button", {
          type: "button",
          class: `chip ${outcome}`,
          "aria-pressed": "false",
          text: outcome,
          onclick: (event) => {
            const on = !this.outcomes.delete(outcome);
            if (on) this.outcomes.add(outcome);
            event.currentTarget.setAttribute("aria-pressed", String(on));
            this.update();
          },
        }),
      );
    }
    DATA.servers.forEach((name, at) =>
      $("filter-server").append(el("option", { value: at, text: name })),
    );
    const workers = [...new Set(TESTS.map((test) => test.worker))].sort((a, b) =>
      a.localeCompare(b, undefined, { numeric: true }),
    );
    for (const name of workers)
      $("filter-worker").append(el("option", { value: name, text: name }));
    $("by-server").hidden = DATA.servers.length < 2;
    $("by-worker").hidden = workers.length < 2;
    document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
    $("filter-text").addEventListener("input", () => this.update());
    for (const id of ["filter-server", "filter-worker"])
      $(id).addEventListener("change", () => this.update());
  },
};
