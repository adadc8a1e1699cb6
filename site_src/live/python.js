/** Python's colours while it is typed, in the classes that the built pages have. A sketch of the grammar, as editors have it. */

const KEYWORDS = "and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield False None True".split(" ");
const BUILTINS = "abs all any bool dict enumerate filter float int isinstance len list map max min print range reversed round set sorted str sum tuple type zip".split(" ");
const TOKEN = new RegExp(
  [
    "(?<c1>#.*)",
    "(?<s1>[rbfuRBFU]{0,2}(?:\"\"\"[^]*?(?:\"\"\"|$)|'''[^]*?(?:'''|$)|\"(?:[^\"\\\\\\n]|\\\\.)*\"?|'(?:[^'\\\\\\n]|\\\\.)*'?))",
    "(?<mi>\\b\\d[\\w.]*(?:[eE][+-]\\d+)?)",
    "(?<=\\b(?:def|class)\\s+)(?<nf>\\w+)",
    `(?<![.\\w])(?:(?<k>${KEYWORDS.join("|")})|(?<nb>${BUILTINS.join("|")}))(?!\\w)`,
  ].join("|"),
  "g",
);

/** [[class or "", text], ...] of a program, in order and complete. */
export function tokens(code) {
  const found = [];
  let end = 0;
  for (const match of code.matchAll(TOKEN)) {
    if (match.index > end) found.push(["", code.slice(end, match.index)]);
    const [kind] = Object.entries(match.groups).find(([, text]) => text !== undefined);
    found.push([kind, match[0]]);
    end = match.index + match[0].length;
  }
  if (end < code.length) found.push(["", code.slice(end)]);
  return found;
}
