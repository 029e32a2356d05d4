/* One trajectory on the page: what it was told, its turns with code and colours, what it saw, its reward. */

const MARKUP = /<\|im_start\|>\w*\n?|<\|im_end\|>\n?|<\|endoftext\|>/g; // the chat format's own tokens
const LOG_PROB_FLOOR = -3; // nats, where the colour is strongest
const RATIO_MOST = 1; // nats, likewise on either side
const LEVELS = 6;
const VERSION_COLOURS = 8;

/** Text in which the format's own tokens are dim. */
function plainText(target, text) {
  let at = 0;
  for (const found of text.matchAll(MARKUP)) {
    if (found.index > at) target.append(text.slice(at, found.index));
    target.append(make("span", "markup", found[0]));
    at = found.index + found[0].length;
  }
  target.append(text.slice(at));
  return target;
}

const nats = (thousandths) => (thousandths / 1000).toFixed(3);
const versionOf = (turn, number) => (Array.isArray(turn.v) ? turn.v[number] : turn.v);

/** The class that colours a token, "" for none. */
function tokenColour(turn, number, colour) {
  if (colour === "log_prob") {
    const level = Math.round(Math.min(1, turn.l[number] / 1000 / LOG_PROB_FLOOR) * LEVELS);
    return level > 0 ? `cold${level}` : "";
  }
  if (colour === "version") return `version${versionOf(turn, number) % VERSION_COLOURS}`;
  if (colour === "ratio" && turn.r) {
    const share = Math.max(-1, Math.min(1, turn.r[number] / 1000 / RATIO_MOST));
    const level = Math.round(Math.abs(share) * LEVELS);
    return level === 0 ? "" : share > 0 ? `up${level}` : `down${level}`;
  }
  return "";
}

function tokenTip(turn, number) {
  const told = [JSON.stringify(turn.p[number]), `behaviour log-prob ${nats(turn.l[number])} (p ${Math.exp(turn.l[number] / 1000).toFixed(3)})`];
  told.push(`policy version ${versionOf(turn, number)}`);
  if (turn.r) told.push(`log-ratio ${nats(turn.r[number])} (ratio ${Math.exp(turn.r[number] / 1000).toFixed(3)})`);
  return told.join("\n");
}

/** What the policy sampled: syntax by text colour, tokens by background; a piece is cut where either changes. */
function sampledText(turn, colour) {
  const target = make("pre", "sampled");
  const text = turn.p.join("");
  const parts = turn.c ? pythonParts(text.slice(turn.c[0], turn.c[1]), turn.c[0]) : [];
  for (const found of text.matchAll(MARKUP)) parts.push([found.index, found.index + found[0].length, "markup"]);
  parts.sort((one, other) => one[0] - other[0]);
  let at = 0, part = 0;
  turn.p.forEach((piece, number) => {
    if (!piece) return;
    const token = make("span", `token ${colour === "none" ? "" : tokenColour(turn, number, colour)}`.trim());
    token.dataset.tip = tokenTip(turn, number);
    const end = at + piece.length;
    while (at < end) {
      while (part < parts.length && parts[part][1] <= at) part += 1;
      const next = parts[part];
      const inside = next && next[0] <= at;
      const until = Math.min(end, inside ? next[1] : next ? next[0] : end);
      const words = text.slice(at, until);
      if (inside) token.append(make("span", next[2], words));
      else token.append(words);
      at = until;
    }
    target.append(token);
  });
  return target;
}

function fact(list, name, value, kind) {
  if (value === "" || value === undefined) return;
  list.append(make("dt", "", name), make("dd", kind || "", value));
}

/** What is known of it besides its text. */
function factsOf(row) {
  const list = make("dl", "facts");
  const of = row.failures ? row.failures.split("\n") : [];
  fact(list, "reward", `${row.reward.toFixed(3)}${row.success ? ", all tests passed" : ""}`, row.success ? "good" : "bad");
  fact(list, "task", `${row.task}${row.difficulty ? `, difficulty ${row.difficulty}` : ""}`);
  fact(list, "set", `${row.set}${row.set === "train" ? "" : `, temperature ${row.temperature}`}`);
  fact(list, "became", `${row.state}${row.step ? ` for step ${row.step}` : ""}`);
  const versions = row.oldest === row.newest ? `${row.oldest}` : `${row.oldest} to ${row.newest}`;
  fact(list, "versions", `${versions}${row.lag >= 0 ? `, lag ${row.lag} when trained on` : ""}`);
  fact(list, "turns", `${row.turns}, ${row.sampled.toLocaleString("en")} tokens sampled`);
  fact(list, "seconds", `${row.seconds.toFixed(1)} on ${row.actor}: engine ${row.engine.toFixed(1)}, world ${row.world.toFixed(1)}`);
  fact(list, "tags", row.tags.split("\n").filter(Boolean).join(", "));
  const failed = make("div", "failed");
  if (of.length) {
    failed.append(make("h4", "", `Tests that failed: ${of.length}`));
    const items = make("ul");
    for (const line of of) items.append(make("li", "", line));
    failed.append(items);
  } else if (!row.success) {
    failed.append(make("p", "note", "Which tests failed was not recorded."));
  }
  return [list, failed];
}

/** A pane. `siblings`: [row, is this one] of its group, to go to. */
function showTranscript(pane, row, told, opening, colour, siblings, go) {
  pane.replaceChildren();
  pane.setAttribute("aria-label", `Trajectory ${row.id}`);
  const head = make("header");
  head.append(make("h3", "", row.id));
  if (siblings.length > 1) {
    const chips = make("div", "chips");
    chips.append(make("span", "note", "group"));
    for (const one of siblings) {
      const chip = make("button", `chip ${one.success ? "good" : one.reward > 0 ? "" : "bad"}`, one.reward.toFixed(2));
      chip.type = "button";
      chip.setAttribute("aria-label", `member ${one.member}, reward ${one.reward.toFixed(2)}`);
      chip.dataset.tip = `${one.id}\nreward ${one.reward.toFixed(3)}\n${one.state}`;
      if (one.number === row.number) chip.setAttribute("aria-current", "true");
      chip.addEventListener("click", () => go(one.number));
      chips.append(chip);
    }
    head.append(chips);
  }
  pane.append(head, ...factsOf(row));
  const before = make("details", "opening");
  before.append(make("summary", "", "What it was told"), plainText(make("pre", "seen"), opening));
  before.open = opening.length < 1500;
  pane.append(before);
  told.u.forEach((turn, number) => {
    const block = make("article", "turn");
    block.append(make("h4", "", `Turn ${number + 1}`));
    if (!turn.c) block.append(make("p", "note", "No code was executed."));
    block.append(sampledText(turn, colour));
    if (turn.s === null) block.append(make("p", "note", "The episode ended here."));
    else block.append(plainText(make("pre", "seen"), turn.s.replace(/^\n/, "")));
    pane.append(block);
  });
}
