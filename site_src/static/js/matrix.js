/** The papers found, counted on two axes at once; a click adds both values to what is asked. */
import * as bits from "./bits.js";
import { element } from "./dom.js";

export function matrix(atlas, titles, found, [rows, columns], ask, choose) {
  const done = atlas.carriers.relation.implements;
  const used = (axis) => Object.entries(atlas.carriers[axis]).filter(([, set]) => bits.shared(found, set));
  const across = used(columns);
  const head = element("tr", {}, element("td"), ...across.map(([value]) => element("th", { scope: "col" }, titles[columns][value])));
  const body = used(rows).map(([row, set]) => {
    const inRow = bits.and(found, set);
    const cells = across.map(([column, other]) => {
      const both = bits.and(inRow, other);
      const count = bits.size(both);
      if (!count) return element("td");
      const own = bits.shared(both, done);
      const label = `${count} ${count === 1 ? "paper" : "papers"}, ${own} implemented: ${titles[rows][row]}, ${titles[columns][column]}`;
      const button = element("button", { type: "button", "aria-label": label, "data-cell": `${row} ${column}` }, String(count));
      button.addEventListener("click", () => ask({ [rows]: row, [columns]: column }));
      return element("td", { class: `share-${Math.ceil((5 * own) / count)}` }, button);
    });
    return element("tr", {}, element("th", { scope: "row" }, titles[rows][row]), ...cells);
  });
  const table = element("table", { class: "heat" }, element("thead", {}, head), element("tbody", {}, ...body));
  const selects = [rows, columns].map((axis, at) => {
    const select = element("select", {}, ...Object.keys(titles).map((name) => element("option", { value: name, selected: name === axis }, titles[name][""])));
    select.addEventListener("change", () => choose(at, select.value));
    return element("label", {}, at ? "columns " : "rows ", select);
  });
  return element(
    "div",
    { class: "matrix" },
    element("p", { class: "matrix-axes" }, ...selects, element("span", { class: "muted" }, "The darker, the more of them are implemented.")),
    element("div", { class: "table-scroll", tabindex: "0", role: "group", "aria-label": "Papers on two axes" }, table),
  );
}
