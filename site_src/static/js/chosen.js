/** Papers that were put side by side: kept while the window is open, shown in a tray at the bottom of every page. */
import { address, announce, element } from "./dom.js";

const MOST = 4;
const PLACE = "compare";

/** [[key, what to call it], ...] */
export function chosen() {
  return JSON.parse(sessionStorage.getItem(PLACE) ?? "[]");
}

export function choose(papers) {
  sessionStorage.setItem(PLACE, JSON.stringify(papers));
  for (const button of document.querySelectorAll("[data-compare]")) mark(button, papers);
  tray(papers);
}

function mark(button, papers) {
  const there = papers.some(([key]) => key === button.dataset.compare);
  button.setAttribute("aria-pressed", String(there));
  button.textContent = there ? "Compared" : "Compare";
}

/** A button that puts a paper into the comparison, or takes it out. */
export function toggle(key, title) {
  const button = element("button", { type: "button", class: "compare", "data-compare": key, "data-title": title, "aria-label": `Compare ${title}` });
  mark(button, chosen());
  return button;
}

function tray(papers) {
  document.querySelector(".tray")?.remove();
  if (!papers.length || document.querySelector(".compare-page")) return;
  const clear = element("button", { type: "button", class: "quiet" }, "Clear");
  clear.addEventListener("click", () => choose([]));
  const link = element("a", { class: "button", href: address(`compare/?papers=${papers.map(([key]) => key).join(",")}`) }, papers.length > 1 ? `Compare ${papers.length}` : "Compare with …");
  document.body.append(element("aside", { class: "tray", "aria-label": "Chosen for comparison" }, element("span", {}, papers.map(([, title]) => title).join(" · ")), link, clear));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-compare]");
  if (!button) return;
  const papers = chosen();
  const key = button.dataset.compare;
  const left = papers.filter(([other]) => other !== key);
  if (left.length < papers.length) choose(left);
  else if (papers.length >= MOST) announce(`No more than ${MOST} papers can be compared`);
  else choose([...papers, [key, button.dataset.title]]);
});

choose(chosen());
