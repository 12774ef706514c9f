function choose(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  for (const button of document.querySelectorAll("button[data-theme]")) {
    button.setAttribute("aria-pressed", String(button.dataset.theme === theme));
  }
}

const THEMES = ["", "light", "dark"];
const before = stored.get("mlc-report-theme");
choose(THEMES.includes(before) ? before : "");
for (const button of document.querySelectorAll("button[data-theme]")) {
  button.addEventListener("click", () => {
    choose(button.dataset.theme);
    stored.set("mlc-report-theme", button.dataset.theme);
  });
}

if (DATA.lanes.length) timeline.build();
table.build();
if (BAD.length) failures.fill(failures.STEP);

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  failures.openAll();
  table.fill(Math.max(0, 500 - table.filled));
});
document.documentElement.dataset.ready = "true";
