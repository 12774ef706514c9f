// What the table and the list of failures show of one test.

function fact(name, value, title) {
  return el("div", { title }, el("dt", { text: name }), el("dd", { text: value }));
}

function facts(test) {
  const list = el("dl", { class: "facts" });
  list.append(fact("outcome", test.outcome));
  if (test.worker) list.append(fact("worker", test.worker));
  ["setup", "call", "teardown"].forEach((name, at) => {
    if (test.phases[at] != null) list.append(fact(name, duration(test.phases[at])));
  });
  if (test.reruns) list.append(fact("attempts", String(test.reruns + 1)));
  const cost = test.cost;
  if (cost === NO_COST) return list;
  if (cost.requests != null)
    list.append(
      fact("requests", count(cost.requests) + (cost.errors ? `, ${cost.errors} with errors` : "")),
    );
  if (cost.prompt != null) list.append(fact("prompt tokens", count(cost.prompt)));
  if (cost.completion != null) list.append(fact("generated tokens", count(cost.completion)));
  if (cost.ttft != null) list.append(fact("time to first token", firstToken(cost)));
  if (cost.speed != null) list.append(fact("tokens per second", rate(cost.speed)));
  if (cost.shared) list.append(fact("shared", cost.shared));
  for (const server of cost.servers) list.append(fact("server", DATA.servers[server]));
  return list;
}

function cell(text, numeric = true) {
  return el("td", { class: numeric ? "n" : null, text });
}

function requestRow(request) {
  const status = request.status ?? (request.error ? "failed" : "–");
  return el(
    "tr",
    { class: request.wrong ? "wrong" : null },
    el("th", { scope: "row", text: request.what }),
    cell(String(status)),
    cell(request.start == null ? "–" : `+${duration(request.start)}`),
    cell(duration(request.ms)),
    cell(seconds(request.ttft)),
    cell(count(request.prompt)),
    cell(count(request.completion)),
    cell(request.error, false),
    cell(request.source, false),
  );
}

function requestTable(test) {
  if (!test.rows.length) return null;
  const names = [
    "Request",
    "Status",
    "Began",
    "Took",
    "First token",
    "Tokens in",
    "Tokens out",
    "Error",
    "Seen by",
  ];
  const head = el(
    "tr",
    {},
    ...names.map((name, at) =>
      el("th", { scope: "col", class: at > 0 && at < 7 ? "n" : null, text: name }),
    ),
  );
  const left = test.asked - test.rows.length;
  return el(
    "div",
    { class: "part" },
    el("h4", {
      text: left ? `Requests (the first ${test.rows.length} of ${test.asked})` : "Requests",
    }),
    el(
      "div",
      { class: "wide" },
      el(
        "table",
        { class: "requests" },
        el("thead", {}, head),
        el("tbody", {}, ...requestsOf(test).map(requestRow)),
      ),
    ),
  );
}

// A traceback's own words about the error stand out from the source around them.
function listing(text, traceback) {
  const pre = el("pre", { tabindex: "0" });
  if (!traceback) {
    pre.textContent = text;
    return pre;
  }
  for (const line of text.split("\n")) {
    const kind = line.startsWith("E ") ? "e" : line.startsWith(">") ? "at" : null;
    pre.append(kind ? el("span", { class: kind, text: line }) : line, "\n");
  }
  return pre;
}

function part(title, body) {
  return el("div", { class: "part" }, el("h4", { text: title }), body);
}

function detailsOf(test) {
  const [text, sections] = DATA.details[test.index] ?? ["", []];
  const box = el("div", { class: "detail" }, facts(test));
  const bad = DATA.bad.includes(test.outcome);
  if (text)
    box.append(bad ? part("Failure", listing(text, true)) : el("p", { class: "reason", text }));
  box.append(...[requestTable(test)].filter(Boolean));
  // What the table above and the link below say is not said again.
  const said = (title) =>
    (test.rows.length && title.startsWith("mlc server requests")) ||
    (test.trace && title.startsWith("mlc server trace"));
  for (const [title, lines] of sections.filter(([title]) => !said(title)))
    box.append(part(title, listing(lines, false)));
  const links = el(
    "p",
    { class: "links" },
    el("button", {
      type: "button",
      onclick: () => timeline.show(test),
      text: "Show on the timeline",
    }),
  );
  if (test.trace) {
    links.append(
      el(
        "span",
        {},
        "Trace ",
        el("a", { href: test.trace[0], text: test.trace[1] }),
        el("span", { class: "sub", text: " opens in ui.perfetto.dev or chrome://tracing" }),
      ),
    );
  }
  box.append(links);
  return box;
}
