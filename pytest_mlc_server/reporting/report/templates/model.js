const DATA = JSON.parse($("data").textContent);
const MARKS = {
  passed: "✓",
  failed: "✗",
  error: "!",
  skipped: "–",
  xfailed: "x",
  xpassed: "X",
  unfinished: "…",
};

const word = (index) => DATA.words[index];

function readRequest(row) {
  const [what, status, start, ms, ttft, prompt, completion, error, source, place] = row;
  const known = { what: word(what), status, start, ms, ttft, prompt, completion, place };
  return {
    ...known,
    error: word(error),
    source: word(source),
    wrong: word(error) !== "" || status >= 400,
  };
}

function readCost(row) {
  const [requests, errors, prompt, completion, ttft, least, speed, shared, servers] = row;
  return {
    requests,
    errors,
    prompt,
    completion,
    ttft,
    least,
    speed,
    shared: word(shared),
    servers,
  };
}

const NO_COST = {
  requests: null,
  errors: null,
  prompt: null,
  completion: null,
  ttft: null,
  speed: null,
  shared: "",
  servers: [],
};

function readTest(row, index) {
  const [file, name, outcome, worker, start, ms, phases, cost, requests, asked, trace, reruns] =
    row;
  const test = {
    index,
    file: word(file),
    name,
    outcome: DATA.outcomes[outcome],
    worker: word(worker),
  };
  Object.assign(test, { start, ms, phases, rows: requests, asked, trace, reruns });
  test.cost = cost ? readCost(cost) : NO_COST;
  test.found = `${test.file}::${test.name}`.toLowerCase();
  return test;
}

const TESTS = DATA.tests.map(readTest);
const BAD = TESTS.filter((test) => DATA.bad.includes(test.outcome));
const HAS_WORKERS = TESTS.some((test) => test.worker);
const HAS_COST = TESTS.some((test) => test.cost !== NO_COST);

// A server remembers its last request alone: of several, the longest wait may be longer.
const firstToken = (cost) => (cost.least && cost.ttft != null ? "≥ " : "") + seconds(cost.ttft);

const requestsOf = (test) => test.rows.map(readRequest);
const markOf = (test) =>
  el("span", { class: `mark ${test.outcome}`, title: test.outcome, text: MARKS[test.outcome] });
