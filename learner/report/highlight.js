/* Python for the eye: which parts of a text are comments, strings, numbers, words of the language, calls. */

const PYTHON_WORDS = new Set((
  "and as assert async await break class continue def del elif else except finally for from global if import in is " +
  "lambda match nonlocal not or pass raise return try while with yield None True False"
).split(" "));
const PYTHON_TOKEN = new RegExp([
  "(?<comment>#[^\\n]*)",
  "(?<string>\\b[rRbBuUfF]{0,2}(?:'''[\\s\\S]*?(?:'''|$)|\"\"\"[\\s\\S]*?(?:\"\"\"|$)" +
    "|'(?:\\\\.|[^'\\\\\\n])*(?:'|$|(?=\\n))|\"(?:\\\\.|[^\"\\\\\\n])*(?:\"|$|(?=\\n)))" +
    "|(?:'''[\\s\\S]*?(?:'''|$)|\"\"\"[\\s\\S]*?(?:\"\"\"|$)" +
    "|'(?:\\\\.|[^'\\\\\\n])*(?:'|$|(?=\\n))|\"(?:\\\\.|[^\"\\\\\\n])*(?:\"|$|(?=\\n))))",
  "(?<number>\\b(?:0[xXoObB][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d*)?(?:[eE][+-]?\\d+)?j?)\\b)",
  "(?<name>[A-Za-z_]\\w*)",
].join("|"), "g");

/** Parts of a text that have a colour: [begin, end, kind], in order, of code alone. */
function pythonParts(code, offset) {
  const parts = [];
  for (const found of code.matchAll(PYTHON_TOKEN)) {
    const begin = found.index, end = begin + found[0].length, groups = found.groups;
    let kind = groups.comment ? "comment" : groups.string ? "string" : groups.number ? "number" : "";
    if (groups.name) {
      if (PYTHON_WORDS.has(groups.name)) kind = "word-of-python";
      else if (/^\s*\(/.test(code.slice(end, end + 8))) kind = "call";
    }
    if (kind) parts.push([begin + offset, end + offset, kind]);
  }
  return parts;
}
