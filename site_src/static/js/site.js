/** What every page has: theme, copying, definitions, the search key. */
import "./chosen.js";
import { Complete } from "./complete.js";
import { announce } from "./dom.js";

for (const input of document.querySelectorAll("[data-complete]")) new Complete(input);

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return root.dataset.theme ?? (dark.matches ? "dark" : "light");
}

const toggle = document.querySelector("[data-theme-toggle]");
const label = toggle.querySelector("[data-theme-label]");
function showTheme() {
  label.textContent = `Switch to the ${theme() === "dark" ? "light" : "dark"} theme`;
}
toggle.hidden = false;
showTheme();
dark.addEventListener("change", showTheme);
toggle.addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  showTheme();
});

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const code = button.closest(".code-block").querySelector("pre");
  await copy(code.textContent.trim() + "\n");
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (button.textContent = "Copy"), 1600);
});

// What scrolls must be reachable by keyboard.
for (const block of document.querySelectorAll(".prose pre, .prose table")) {
  if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
}

// A definition stays inside the window, and Escape hides it.
function place(tag) {
  const definition = tag.querySelector(".definition");
  if (!definition) return;
  definition.style.translate = "";
  const box = definition.getBoundingClientRect();
  const over = box.right - (root.clientWidth - 12);
  if (over > 0) definition.style.translate = `${-Math.min(over, box.left - 12)}px 0`;
}
for (const kind of ["pointerover", "focusin"]) {
  document.addEventListener(kind, (event) => {
    const tag = event.target.closest?.(".tag");
    if (tag) place(tag);
  });
}
for (const kind of ["pointerout", "focusout"]) {
  document.addEventListener(kind, (event) => event.target.closest?.(".tag")?.classList.remove("dismissed"));
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const tag of document.querySelectorAll(".tag:hover, .tag:focus-within")) tag.classList.add("dismissed");
  }
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    const field = ["#text", "#hero-text", "#masthead-text"].map((name) => document.querySelector(name)).find((input) => input?.checkVisibility());
    event.preventDefault();
    field.focus();
    field.select();
  }
});
