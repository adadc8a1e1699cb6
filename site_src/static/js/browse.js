/** The browse page: facets, words, years, sorting; everything asked stands in the address. */
import { Atlas } from "./atlas.js";
import * as bits from "./bits.js";
import { announce, element, load } from "./dom.js";
import { matrix } from "./matrix.js";
import { nearest } from "./near.js";
import { Results } from "./results.js";
import { Rows } from "./rows.js";
import * as selections from "./selection.js";
import { timeline } from "./timeline.js";
import { Words } from "./words.js";
import { Years } from "./years.js";

const find = (selector) => document.querySelector(selector);
const page = find(".browse");
const form = find("#facets");
const text = find("#text");
const sort = find("#sort");
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
const SORTS = ["relevance", "newest", "oldest", "title"];

const atlas = new Atlas(await load("data/atlas.json"));
const words = new Words();
const titles = {};
for (const facet of form.querySelectorAll("[data-axis]")) {
  titles[facet.dataset.axis] = { "": facet.querySelector("legend").textContent };
  for (const label of facet.querySelectorAll("label")) titles[facet.dataset.axis][label.control.value] = label.querySelector(".value").textContent;
}
const rows = new Rows(atlas.chunk);
const results = new Results(atlas, titles, rows, find("[data-results]"), find("[data-more]"));
const years = find(".years") && new Years(find(".years"), (range) => ask({ ...selection, years: range }));

let selection = selections.parse(location.search, atlas.values);
let ranked = { text: "", papers: null };
let asked = 0;
let typed = false;

/** Take a new selection, put it into the address, and show it. */
function ask(wanted, typing = false) {
  selection = wanted;
  const url = location.pathname + selections.format(selection);
  // a word that is being typed is one step back, not one for each letter
  if (typing && typed) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  typed = typing;
  return show();
}

async function show() {
  const turn = ++asked;
  page.dataset.busy = "";
  if (ranked.text !== selection.text) {
    const papers = await words.ranked(selection.text);
    if (turn !== asked) return;
    ranked = { text: selection.text, papers };
  }
  const filters = atlas.filters(selection, ranked.papers);
  const found = atlas.matching(filters);
  const total = bits.size(found);
  showControls(filters);
  showTotal(total);
  showNothing(total, filters);
  years?.show(atlas.byYear(filters), selection.years);
  const order = SORTS.includes(selection.sort) && (selection.sort !== "relevance" || ranked.papers) ? selection.sort : ranked.papers ? "relevance" : "newest";
  sort.value = order;
  sort.options[0].disabled = !ranked.papers;
  await showPapers(turn, found, atlas.ordered(found, order, ranked.papers));
  if (turn === asked) delete page.dataset.busy;
}

async function showPapers(turn, found, papers) {
  const { view } = selection;
  const other = find("[data-view]");
  for (const button of document.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", String(button.dataset.show === view));
  if (view === "list" || view === "table") {
    await results.show(papers, view === "table");
    if (turn === asked) other.replaceChildren();
    return;
  }
  const drawn = view === "timeline" ? await timeline(atlas, rows, papers) : matrix(atlas, titles, found, selection.across, narrow, across);
  if (turn !== asked) return;
  results.hide(papers);
  other.replaceChildren(papers.length ? drawn : "");
}

/** Ask for one value on each of some axes, and list what is there. */
function narrow(values) {
  const axes = { ...selection.axes };
  for (const [axis, value] of Object.entries(values)) axes[axis] = [value];
  ask({ ...selection, axes, view: "list" });
}

async function across(at, axis) {
  const wanted = [...selection.across];
  // an axis across itself says nothing: the two change places
  if (wanted[1 - at] === axis) wanted[1 - at] = wanted[at];
  wanted[at] = axis;
  await ask({ ...selection, across: wanted });
  find(`.matrix-axes label:nth-child(${at + 1}) select`)?.focus();
}

function showControls(filters) {
  const counts = atlas.counts(filters);
  for (const box of boxes) {
    const count = counts[box.name][box.value];
    const label = box.parentElement;
    box.checked = selection.axes[box.name]?.includes(box.value) ?? false;
    box.toggleAttribute("data-empty", !count && !box.checked);
    const shown = label.lastElementChild;
    if (shown.textContent !== String(count)) shown.textContent = count;
  }
  for (const facet of form.querySelectorAll("[data-axis]")) {
    const chosen = selection.axes[facet.dataset.axis]?.length ?? 0;
    facet.querySelector("[data-chosen]").textContent = chosen || "";
    if (chosen) facet.open = true;
  }
  if (document.activeElement !== text) text.value = selection.text;
  const active = describe(selection);
  find("[data-active-count]").textContent = active.length || "";
  find("[data-clear]").hidden = !active.length;
  find("[data-chips]").replaceChildren(
    ...active.map(({ label, without }) => {
      const chip = element("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${label}` }, label, element("span", { "aria-hidden": "true" }, "×"));
      chip.addEventListener("click", () => ask(without));
      return chip;
    }),
  );
  find("[data-shell]").textContent = selections.shell(selection);
  find("[data-python]").textContent = selections.python(selection);
}

function showTotal(total) {
  find("[data-total]").textContent = total.toLocaleString("en");
  find("[data-total-noun]").textContent = total === 1 ? "paper" : "papers";
  find("[data-exports]").hidden = !total;
}

/** Every value, range or text that is asked, with the selection that is left without it. */
function describe({ axes, years, text: wanted }) {
  const list = [];
  if (wanted) list.push({ label: `“${wanted}”`, without: { ...selection, text: "" } });
  if (years) list.push({ label: years[0] === years[1] ? `${years[0]}` : `${years[0]} to ${years[1]}`, without: { ...selection, years: null } });
  for (const [axis, values] of Object.entries(axes)) {
    for (const value of values) list.push({ label: titles[axis][value], without: { ...selection, axes: dropped(axes, axis, value) } });
  }
  return list;
}

function dropped(axes, axis, value) {
  const { [axis]: values, ...rest } = axes;
  const left = values.filter((other) => other !== value);
  return left.length ? { ...axes, [axis]: left } : rest;
}

/** If nothing is found: which single filter to drop, and what that would give. */
function showNothing(total, filters) {
  const place = find("[data-nothing]");
  place.hidden = total > 0;
  if (total) return;
  const ways = Object.keys(filters)
    .map((name) => ({ name, papers: bits.size(atlas.matching(filters, name)) }))
    .filter(({ papers }) => papers)
    .sort((one, other) => other.papers - one.papers);
  const buttons = ways.map(({ name, papers }) => {
    const button = element("button", { type: "button", class: "quiet", "data-drop": name }, `Drop ${filterName(name)}: ${papers} ${papers === 1 ? "paper" : "papers"}`);
    button.addEventListener("click", () => ask(without(name)));
    return element("li", {}, button);
  });
  const hint = ways.length ? "One filter stands in the way of these:" : "No single filter is to blame; several have to go.";
  place.replaceChildren(element("p", { class: "nothing-title" }, "No paper matches all of this."), element("p", {}, hint), element("ul", {}, ...buttons));
  if (selection.text) suggest(place.lastChild, selection.text);
}

/** Names that the words may have meant, in front of the other ways out. */
async function suggest(list, typed) {
  const { papers } = await load("data/names.json");
  for (const [name] of nearest(typed, papers, ([name]) => name, 3).reverse()) {
    const button = element("button", { type: "button", class: "quiet", "data-meant": name }, `Did you mean ${name}?`);
    button.addEventListener("click", () => {
      text.value = name;
      ask({ ...selection, text: name });
    });
    list.prepend(element("li", {}, button));
  }
}

function filterName(name) {
  if (name === "text") return `the words “${selection.text}”`;
  if (name === "years") return `the years ${selection.years.join(" to ")}`;
  return `${titles[name][""].toLowerCase()} (${selection.axes[name].map((value) => titles[name][value].toLowerCase()).join(", ")})`;
}

function without(name) {
  if (name === "text") return { ...selection, text: "" };
  if (name === "years") return { ...selection, years: null };
  const { [name]: _, ...axes } = selection.axes;
  return { ...selection, axes };
}

form.addEventListener("change", (event) => {
  if (event.target.type !== "checkbox") return;
  const axes = {};
  for (const box of boxes) if (box.checked) (axes[box.name] ??= []).push(box.value);
  ask({ ...selection, axes });
});
form.addEventListener("submit", (event) => event.preventDefault());
find("[data-views]").addEventListener("click", (event) => {
  const view = event.target.dataset.show;
  if (view && view !== selection.view) ask({ ...selection, view });
});
sort.addEventListener("change", () => ask({ ...selection, sort: sort.value }));

let pause;
text.addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => ask({ ...selection, text: text.value.trim() }, true), 120);
});
text.addEventListener("blur", () => (typed = false));
find("[data-clear]").addEventListener("click", () => {
  text.value = "";
  ask({ ...selection, text: "", years: null, axes: {} });
});

addEventListener("popstate", () => {
  selection = selections.parse(location.search, atlas.values);
  text.value = selection.text;
  typed = false;
  show();
});

// On a narrow window the filters cover the page until they are closed.
function openFilters(open) {
  page.toggleAttribute("data-filtering", open);
  document.body.toggleAttribute("data-still", open);
  if (open) find("[data-facets-close]").focus();
  else find("[data-facets-open]").focus();
}
find("[data-facets-open]").addEventListener("click", () => openFilters(true));
find("[data-facets-close]").addEventListener("click", () => openFilters(false));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && page.hasAttribute("data-filtering")) openFilters(false);
});

const TYPES = { bib: "application/x-bibtex", csv: "text/csv", json: "application/json", ris: "application/x-research-info-systems" };
find("[data-exports]").addEventListener("click", async (event) => {
  const format = event.target.dataset.export;
  if (!format) return;
  announce("Preparing the file");
  const papers = results.papers;
  const chunks = new Map();
  for (const paper of papers) {
    const chunk = Math.floor(paper / atlas.chunk);
    if (!chunks.has(chunk)) chunks.set(chunk, load(`data/${format}/${chunk}.json`));
  }
  const parts = [];
  for (const paper of papers) parts.push((await chunks.get(Math.floor(paper / atlas.chunk)))[paper % atlas.chunk]);
  const content = {
    bib: () => parts.map((part) => part.trim()).join("\n\n") + "\n",
    csv: () => `${atlas.csv}\n${parts.join("")}`,
    json: () => JSON.stringify(parts, null, 2) + "\n",
    ris: () => parts.join("\n\n") + "\n",
  }[format]();
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type: TYPES[format] })), download: `pruning-atlas.${format}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  announce(`Saved ${papers.length} papers`);
});

text.value = selection.text;
await show();
page.dataset.ready = "";
