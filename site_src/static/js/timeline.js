/** The papers found, year by year, each as a sign with its name. */
import { address, element } from "./dom.js";
import { ORDER, mark } from "./results.js";

const MOST = 600;

export async function timeline(atlas, rows, papers) {
  const newest = [...papers].sort((one, other) => (atlas.years[other] ?? 0) - (atlas.years[one] ?? 0) || one - other);
  const shown = newest.slice(0, MOST);
  const found = await rows.of(shown);
  const years = new Map();
  shown.forEach((paper, at) => {
    const year = atlas.years[paper] ?? "no year";
    if (!years.has(year)) years.set(year, []);
    const [key, title, name] = found[at];
    const relation = ORDER.find((wanted) => atlas.tags(paper, "relation").includes(wanted));
    years.get(year).push(element("li", {}, element("a", { href: address(`papers/${key}/`), title, "data-key": key }, relation ? mark(relation) : "", element("span", {}, name ?? title))));
  });
  const list = [...years].map(([year, items]) =>
    element("li", {}, element("h2", {}, String(year), element("span", { class: "count" }, ` ${items.length}`)), element("ul", {}, ...items)),
  );
  const rest = newest.length - shown.length;
  return element("div", { class: "timeline" }, element("ol", {}, ...list), rest ? element("p", { class: "muted" }, `The ${rest.toLocaleString("en")} oldest are left out.`) : "");
}
