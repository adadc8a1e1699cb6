/** Two to four papers side by side: the address names them, ?papers=key,key */
import { choose } from "./chosen.js";
import { Complete } from "./complete.js";
import { address, element, load } from "./dom.js";

const MOST = 4;
const RELATIONS = { implements: "its own algorithm", variant: "a variant of", subject: "speaks of", nearest: "not implemented yet; nearest" };
const table = document.querySelector("[data-compared]");
const [keys, columns, { terms }, modules] = await Promise.all(["data/keys.json", "data/atlas.json", "data/names.json", "data/implementations.json"].map(load));
const titles = new Map(terms.map(([title, axis, href]) => [href, [title, axis]]));

function wanted() {
  const asked = (new URLSearchParams(location.search).get("papers") ?? "").split(",");
  return [...new Set(asked)].filter((key) => keys.includes(key)).slice(0, MOST);
}

function go(papers) {
  history.pushState(null, "", papers.length ? `?papers=${papers.join(",")}` : location.pathname);
  show();
}

async function show() {
  const asked = wanted();
  const records = await Promise.all(
    asked.map(async (key) => {
      const paper = keys.indexOf(key);
      return (await load(`data/json/${Math.floor(paper / columns.chunk)}.json`))[paper % columns.chunk];
    }),
  );
  choose(records.map((record) => [record.key, record.name ?? record.title]));
  document.querySelector("[data-none]").hidden = records.length > 1;
  document.querySelector("[data-add]").hidden = records.length >= MOST;
  document.title = `${records.map((record) => record.name ?? record.title).join(", ") || "Compare"} · Pruning Atlas`;
  const body = records.length ? [...axes(records), ...texts(records), ...implementations(records)] : [];
  table.dataset.count = records.length;
  table.replaceChildren(head(records), element("tbody", {}, ...body));
}

function head(records) {
  const cells = records.map((record) => {
    const remove = element("button", { type: "button", class: "quiet", "aria-label": `Take out ${record.name ?? record.title}` }, "Take out");
    remove.addEventListener("click", () => go(wanted().filter((key) => key !== record.key)));
    const link = element("a", { href: address(`papers/${record.key}/`) }, record.name ?? record.title);
    return element("th", { scope: "col", "data-key": record.key }, link, record.name ? element("small", {}, record.title) : "", element("small", {}, [record.venue, record.year].filter(Boolean).join(" ")), remove);
  });
  return element("thead", {}, element("tr", {}, element("td"), ...cells));
}

/** A row; it is marked if its cells do not all say the same. */
function row(title, cells, compared = true) {
  const differs = compared && new Set(cells.map((cell) => cell.textContent)).size > 1;
  return element("tr", { class: differs ? "differs" : null }, element("th", { scope: "row" }, title), ...cells);
}

function axes(records) {
  const names = Object.keys(columns.axes).filter((axis) => axis !== "relation");
  return names.flatMap((axis) => {
    const values = records.map((record) => [record[axis] ?? []].flat());
    if (values.every((list) => !list.length)) return [];
    const cells = values.map((list) =>
      element("td", {}, ...list.flatMap((value, at) => [at ? ", " : "", element("a", { href: address(`taxonomy/${axis}/${value}/`) }, titles.get(`taxonomy/${axis}/${value}/`)[0])])),
    );
    const [, title] = titles.get(`taxonomy/${axis}/${columns.axes[axis].values[0]}/`);
    return [row(title, cells)];
  });
}

function texts(records) {
  const authors = records.map((record) => element("td", {}, record.authors.join(", ")));
  const summaries = records.map((record) => element("td", { class: "compared-summary" }, record.summary.replace(/[`*]/g, "")));
  const code = records.map((record) => element("td", {}, ...record.code.map((link) => element("a", { href: link, rel: "noopener" }, "authors' code"))));
  return [row("Authors", authors, false), row("Summary", summaries, false), ...(records.some((record) => record.code.length) ? [row("Code", code, false)] : []), ...reported(records)];
}

function reported(records) {
  if (!records.some((record) => record.reported.length)) return [];
  const cells = records.map((record) =>
    element("td", {}, ...record.reported.map((number) => element("p", {}, `${number.metric} ${number.value}: ${number.network}, ${number.dataset} (${number.source})`))),
  );
  return [row("Reported numbers", cells, false)];
}

function implementations(records) {
  const links = records.map((record) => record.references[0]);
  const found = links.map((link) => modules[link?.implementation]);
  const cell = (make) => found.map((module, at) => element("td", {}, ...(module ? [make(module, links[at])].flat() : [])));
  const code = (text) => (text ? element("pre", { tabindex: "0" }, element("code", {}, text)) : "not run in this build");
  return [
    row("Implementation", cell((module, link) => [`${RELATIONS[link.relation]}: `, element("a", { href: address(`implementations/${link.implementation}/`) }, module.name)])),
    row("What it does", cell((module) => module.promise), false),
    ...["Removes", "Compares within", "Asked by", "Traits"].map((title) => row(title, cell((module) => (module.declared[title] ?? []).join(", ")))),
    row("Lines", cell((module) => String(module.lines))),
    ...measured(found, cell),
    row("Snippet", cell((module) => code(module.snippet)), false),
    row("Recorded output", cell((module) => code(module.output)), false),
  ];
}

function measured(found, cell) {
  if (!found.some((module) => module?.measured)) return [];
  const share = (size, what) => `${size[`${what}_before`].toLocaleString("en")} → ${size[`${what}_after`].toLocaleString("en")}`;
  const number = (title, make) => row(title, cell(({ measured }) => (measured ? make(measured) : "")));
  return [
    number("Measured on", (size) => `${size.network}, ${size.amount}`),
    number("Parameters", (size) => share(size, "parameters")),
    number("Multiply-accumulates", (size) => share(size, "macs")),
    number("Zeros among the weights", (size) => `${Math.round(100 * size.weight_sparsity)} %`),
    number("Time of a forward pass", (size) => `× ${size.latency_ratio.toFixed(2)}`),
  ];
}

new Complete(document.querySelector("#add"), ({ key }) => go([...wanted().filter((other) => other !== key), key]));
addEventListener("popstate", show);
await show();
table.dataset.ready = "";
