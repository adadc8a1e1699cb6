/** The whole field as a drawing: years from left to right, a line from each paper to those that build on it. */
import { Atlas } from "./atlas.js";
import * as bits from "./bits.js";
import { address, drawing, load } from "./dom.js";
import { Rows } from "./rows.js";

const STEP = { year: 168, row: 30 };
const place = document.querySelector("[data-field]");
const select = document.querySelector("[data-axis]");
const said = document.querySelector("[data-said]");
const [columns, { nodes, edges }] = await Promise.all(["data/atlas.json", "data/lineage.json"].map(load));
const atlas = new Atlas(columns);
const rows = await new Rows(atlas.chunk).of(nodes.map(([paper]) => paper));
const years = [...new Set(nodes.map(([, year]) => year))].sort();

const points = nodes.map(([, year, row]) => [years.indexOf(year) * STEP.year + 10, row * STEP.row + 40]);
const size = [years.length * STEP.year, Math.max(200, ...points.map(([, y]) => y)) + 30];
const lines = edges.map(([earlier, later]) => {
  const [[x, y], [toX, toY]] = [points[earlier], points[later]];
  const bend = Math.max(30, (toX - x) / 2);
  return drawing("path", { d: `M${x} ${y}C${x + bend} ${y} ${toX - bend} ${toY} ${toX} ${toY}` });
});
const signs = nodes.map(([paper], at) => {
  const [key, title, name] = rows[at];
  const own = atlas.tags(paper, "relation").includes("implements");
  const label = (name ?? title).length > 21 ? `${(name ?? title).slice(0, 20)}…` : (name ?? title);
  const link = drawing("a", { href: address(`papers/${key}/`), "data-key": key, class: own ? "own" : "" });
  link.append(drawing("title", {}, title), drawing("circle", { r: 5, cx: points[at][0], cy: points[at][1] }), drawing("text", { x: points[at][0] + 9, y: points[at][1] + 4 }, label));
  return link;
});
const picture = drawing("svg", { role: "group", "aria-label": "Papers and what builds on them", preserveAspectRatio: "xMinYMid meet" });
const heads = years.map((year, at) => drawing("text", { class: "year", x: at * STEP.year + 4, y: 16 }, String(year)));
picture.append(drawing("g", { class: "lines" }, ...lines), drawing("g", { class: "years-row" }, ...heads), drawing("g", { class: "signs" }, ...signs));
place.append(picture);

// no taller than the drawing needs
place.style.height = `${Math.round(Math.min(innerHeight * 0.8, Math.max(300, (size[1] + 30) * Math.max(0.8, Math.min(1.2, place.clientWidth / size[0])))))}px`;

// what is seen: left, top, width; the height follows the frame
let view = null;
function look(next) {
  const ratio = place.clientHeight / place.clientWidth;
  const width = Math.min(Math.max(next.width, 300), Math.max(size[0], size[1] / ratio) * 1.1);
  // half of the frame may be empty, not more
  const within = (value, frame, all) => Math.min(Math.max(value, Math.min(-frame / 2, (all - frame) / 2)), Math.max(all - frame / 2, (all - frame) / 2));
  view = { width, left: within(next.left, width, size[0]), top: within(next.top, width * ratio, size[1]) };
  picture.setAttribute("viewBox", `${view.left} ${view.top} ${view.width} ${view.width * ratio}`);
}
// at first the names can be read, from the last years backwards if the frame is too narrow for all
function start() {
  everything();
  const widest = place.clientWidth * 1.6;
  if (view.width > 1.2 * widest) look({ width: widest, left: size[0] - widest, top: (size[1] - widest * (place.clientHeight / place.clientWidth)) / 2 });
}
const everything = () => {
  const ratio = place.clientHeight / place.clientWidth;
  const width = Math.max(size[0] + 40, (size[1] + 20) / ratio);
  look({ left: (size[0] - width) / 2, top: Math.min(-10, (size[1] - width * ratio) / 2), width });
};

function zoom(factor, x = 0.5, y = 0.5) {
  const ratio = place.clientHeight / place.clientWidth;
  const width = view.width * factor;
  look({ width, left: view.left + (view.width - width) * x, top: view.top + (view.width - width) * ratio * y });
}

document.querySelector(".zoom").addEventListener("click", (event) => {
  if (event.target.dataset.zoom === "all") everything();
  else if (event.target.dataset.zoom) zoom(event.target.dataset.zoom === "in" ? 0.7 : 1.4);
});
picture.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.altKey && document.activeElement !== picture && !place.matches(":focus-within, :hover")) return;
  event.preventDefault();
  const box = place.getBoundingClientRect();
  zoom(event.deltaY > 0 ? 1.12 : 0.89, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, { passive: false });
let held = null;
picture.addEventListener("pointerdown", (event) => (held = { x: event.clientX, y: event.clientY, view, moved: false }));
addEventListener("pointermove", (event) => {
  if (!held) return;
  const scale = view.width / place.clientWidth;
  const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
  held.moved ||= Math.hypot(dx, dy) > 4;
  if (held.moved) look({ ...held.view, left: held.view.left - dx * scale, top: held.view.top - dy * scale });
});
addEventListener("pointerup", () => setTimeout(() => (held = null)));
picture.addEventListener("click", (event) => held?.moved && event.preventDefault(), true);
picture.addEventListener("dragstart", (event) => event.preventDefault());

/** The paper's own line: everything before and after it. */
function line(at) {
  const found = new Set([at]);
  for (const [from, to] of [[0, 1], [1, 0]]) {
    const waiting = [at];
    while (waiting.length) {
      const now = waiting.pop();
      for (const edge of edges) if (edge[from] === now && !found.has(edge[to])) found.add(edge[to]) && waiting.push(edge[to]);
    }
  }
  return found;
}

function point(at) {
  picture.classList.toggle("pointed", at !== null);
  const found = at === null ? new Set() : line(at);
  signs.forEach((sign, other) => sign.classList.toggle("lit", found.has(other)));
  lines.forEach((path, other) => path.classList.toggle("lit", edges[other].every((end) => found.has(end))));
}
signs.forEach((sign, at) => {
  for (const kind of ["pointerenter", "focus"]) sign.addEventListener(kind, () => point(at));
  for (const kind of ["pointerleave", "blur"]) sign.addEventListener(kind, () => point(null));
});

function filter() {
  const asked = new URLSearchParams(location.search);
  const [axis, value] = [...asked.entries()].find(([name, value]) => atlas.carriers[name]?.[value]) ?? [];
  select.value = axis ? `${axis}=${value}` : "";
  const set = axis ? atlas.carriers[axis][value] : atlas.everything;
  const shown = nodes.map(([paper]) => bits.has(set, paper));
  signs.forEach((sign, at) => sign.classList.toggle("out", !shown[at]));
  lines.forEach((path, at) => path.classList.toggle("out", !edges[at].some((end) => shown[end])));
  said.textContent = `${shown.filter(Boolean).length} of ${nodes.length} papers with a recorded line`;
}
select.addEventListener("change", () => {
  history.pushState(null, "", select.value ? `?${select.value}` : location.pathname);
  filter();
});
addEventListener("popstate", filter);
new ResizeObserver(() => (view ? look(view) : start())).observe(place);
start();
filter();
place.dataset.ready = "";
