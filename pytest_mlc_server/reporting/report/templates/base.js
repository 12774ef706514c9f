const $ = (id) => document.getElementById(id);

// Text is only ever put where text goes: no name or log line can become markup.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const three = (value) => Number(value.toPrecision(3)).toString();

function duration(ms) {
  if (ms == null) return "–";
  if (ms > 0 && ms < 0.5) return `${three(ms * 1000)} µs`;
  if (ms < 999.5) return `${three(ms)} ms`;
  if (ms < 59950) return `${three(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const seconds = (value) => (value == null ? "–" : duration(value * 1000));
const count = (value) =>
  value == null ? "–" : String(value).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
const rate = (value) =>
  value == null ? "–" : value >= 100 ? count(Math.round(value)) : three(value);
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// Where storage is closed, as for some files, the choice lasts as long as the page.
const stored = {
  get: (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set: (key, value) => {
    try {
      localStorage.setItem(key, value);
    } catch {
      /* see above */
    }
  },
};
