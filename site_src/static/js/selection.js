/** What is asked, and the address that says it: ?text=…&years=2018-2021&when=before_training&how=sensitivity&how=loss_change */

export const VIEWS = ["list", "table", "timeline", "matrix"];
const YEARS = /^(\d{4})(?:-(\d{4}))?$/;

/** Everything that a reader chose. `axes`: axis -> values; `years`: [first, last] or null; `across`: the two axes of the matrix. */
export function parse(search, axes) {
  const parameters = new URLSearchParams(search);
  const chosen = {};
  for (const [axis, values] of Object.entries(axes)) {
    const wanted = values.filter((value) => parameters.getAll(axis).includes(value));
    if (wanted.length) chosen[axis] = wanted;
  }
  const years = YEARS.exec(parameters.get("years") ?? "");
  const range = years ? [Number(years[1]), Number(years[2] ?? years[1])] : null;
  return {
    text: parameters.get("text") ?? "",
    years: range && range[0] <= range[1] ? range : null,
    sort: parameters.get("sort") ?? "",
    view: VIEWS.includes(parameters.get("view")) ? parameters.get("view") : "list",
    across: ["rows", "columns"].map((name, at) => (parameters.get(name) in axes ? parameters.get(name) : ["how", "when"][at])),
    axes: chosen,
  };
}

/** The query part of the address; empty if nothing is asked. */
export function format(selection) {
  const parameters = new URLSearchParams();
  if (selection.text) parameters.set("text", selection.text);
  if (selection.years) parameters.set("years", selection.years.join("-"));
  for (const [axis, values] of Object.entries(selection.axes)) {
    for (const value of values) parameters.append(axis, value);
  }
  if (selection.sort) parameters.set("sort", selection.sort);
  if (selection.view !== "list") parameters.set("view", selection.view);
  if (selection.view === "matrix") ["rows", "columns"].forEach((name, at) => parameters.set(name, selection.across[at]));
  const text = parameters.toString();
  return text ? `?${text}` : "";
}

/** The same question as a shell command. */
export function shell(selection) {
  const words = ["pruning-atlas query"];
  for (const [axis, values] of Object.entries(selection.axes)) words.push(...values.map((value) => `--${axis} ${value}`));
  if (selection.years) words.push(`--years ${selection.years.join("-")}`);
  if (selection.text) words.push(`--text '${selection.text.replaceAll("'", "'\\''")}'`);
  return words.join(" ");
}

/** The same question in Python. */
export function python(selection) {
  const quoted = (value) => JSON.stringify(value);
  const parts = [];
  if (selection.text) parts.push(`text=${quoted(selection.text)}`);
  if (selection.years) parts.push(`years=(${selection.years.join(", ")})`);
  for (const [axis, values] of Object.entries(selection.axes)) {
    parts.push(`${axis}=${values.length === 1 ? quoted(values[0]) : `[${values.map(quoted).join(", ")}]`}`);
  }
  return `from catalog import Catalog\n\natlas = Catalog.open()\natlas.papers(${parts.join(", ")})`;
}
