/** Small helpers around the DOM. Text is only ever set as text. */

/** An element with attributes and children; children are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(attribute, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(attribute, value);
  }
  made.append(...children);
  return made;
}

/** The same in SVG. */
export function drawing(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

/** Said to screen readers. */
export function announce(text) {
  document.querySelector("[data-announce]").textContent = text;
}

/** The address of something of the site, wherever the page stands. */
export function address(path) {
  const root = document.documentElement.dataset.root.replace(/\/$/, "");
  return new URL(`${root}/${path}`, document.baseURI).href;
}

/** JSON of the site. A connection that breaks is tried twice more. */
export async function load(path, tries = 3) {
  const response = await fetch(address(path)).catch((error) => {
    if (tries === 1) throw error;
  });
  if (!response) return load(path, tries - 1);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}
