/* The trajectories: an index that is always there, blocks unpacked when one of theirs is looked at, a list that draws
   the rows in sight alone, filters and search, two rollouts of a group side by side. */

const ROW = 46; // pixels of a row, as report.css has it
const SPARE = 8; // rows drawn above and below those in sight
const KEPT_BLOCKS = 6;

const rows = []; // of the index, in the order of arrival
const groups = new Map(); // rows by group
const cache = new Map(); // unpacked blocks, the newest last
let shown = []; // rows that pass the filters, in the chosen order
let current = -1; // place in `shown`
let other = -1; // number of the row beside it, -1: none
let facts = {};

async function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** A block, unpacked once while it is looked at. */
function block(number) {
  const known = cache.get(number) ?? unpack(`block-${number}`);
  cache.delete(number);
  cache.set(number, known);
  if (cache.size > KEPT_BLOCKS) cache.delete(cache.keys().next().value);
  return known;
}

function readIndex(index) {
  const names = Object.keys(index.columns);
  const cell = (column, at) => (Array.isArray(column) ? column[at] : column.values[column.rows[at]]);
  for (let at = 0; at < index.count; at += 1) {
    const row = { number: at, block: index.block[at], place: index.place[at], ratio: index.ratio[at] };
    for (const name of names) row[name] = cell(index.columns[name], at);
    row.words = `${row.id} ${row.task} ${row.set} ${row.state} ${row.actor} ${row.tags} ${row.failures}`.toLowerCase();
    rows.push(row);
    if (!groups.has(row.group)) groups.set(row.group, []);
    groups.get(row.group).push(row);
  }
  for (const members of groups.values()) members.sort((one, two) => one.member - two.member);
  facts = index.facts;
}

// ------------------------------------------------------------------------------------------------ filters and search

function fill(id, values, said = (value) => value) {
  const select = byId(id);
  select.replaceChildren(new Option("all", ""), ...values.map((value) => new Option(said(value), value)));
  select.closest("label").hidden = values.length < 2 && id === "by-difficulty";
}

const distinct = (name) => [...new Set(rows.map((row) => row[name]))].sort((one, two) => (one < two ? -1 : 1));
const outcomeOf = (row) => (row.success ? "success" : row.reward > 0 ? "partial" : "none");

let search = 0; // number of the newest: an older one that still looks into blocks gives up

/** Numbers of the rows whose text holds the words, block by block. */
async function lookInto(words, mine) {
  const found = new Set();
  const places = new Map();
  for (const row of rows) {
    if (!places.has(row.block)) places.set(row.block, []);
    places.get(row.block).push(row);
  }
  let done = 0;
  for (const [number, some] of places) {
    const content = await unpack(`block-${number}`);
    if (mine !== search) return null;
    const openings = content.openings.map((text) => text.toLowerCase().includes(words));
    for (const row of some) {
      const told = content.trajectories[row.place];
      const said = told.u.some((turn) => `${turn.p.join("")}\n${turn.s ?? ""}`.toLowerCase().includes(words));
      if (said || openings[told.o]) found.add(row.number);
    }
    done += 1;
    byId("matches").textContent = `looked into ${done} of ${places.size} blocks, ${found.size} found`;
  }
  return found;
}

async function filter({ deep = false } = {}) {
  const mine = ++search;
  const typed = byId("search").value.trim().toLowerCase();
  const inText = typed.startsWith("text:");
  if (inText && !deep) {
    byId("matches").textContent = "Enter looks into what was said and seen.";
    return;
  }
  const before = shown[current];
  const words = inText ? typed.slice(5).trim() : typed;
  const within = inText && words ? await lookInto(words, mine) : null;
  if (mine !== search) return;
  const of = Object.fromEntries(["set", "scenario", "difficulty", "outcome", "state", "ratio"].map((name) => [name, byId(`by-${name}`).value]));
  const terms = inText ? [] : words.split(/\s+/).filter(Boolean);
  shown = rows.filter((row) =>
    (!of.set || row.set === of.set) && (!of.scenario || row.scenario === of.scenario) &&
    (!of.difficulty || String(row.difficulty) === of.difficulty) && (!of.outcome || outcomeOf(row) === of.outcome) &&
    (!of.state || row.state === of.state) && (!of.ratio || row.ratio) && (!within || within.has(row.number)) &&
    terms.every((term) => row.words.includes(term)));
  const order = byId("order").value;
  if (order !== "arrived") {
    const key = order.replace("-", ""), sign = order.startsWith("-") ? -1 : 1;
    shown.sort((one, two) => sign * (one[key] - two[key]) || one.number - two.number);
  }
  const solved = shown.filter((row) => row.success).length;
  byId("matches").textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} trajectories` +
    (shown.length ? `, ${((100 * solved) / shown.length).toFixed(1)} % of them successes` : "");
  const stays = before ? shown.indexOf(before) : -1;
  if (stays < 0) byId("list").scrollTop = 0;
  await select(stays >= 0 ? stays : shown.length ? 0 : -1);
}

// ------------------------------------------------------------------------------------------------ the list

function drawRow(place) {
  const row = shown[place];
  const line = make("div", `row ${outcomeOf(row)}`);
  line.id = `row-${row.number}`;
  line.setAttribute("role", "option");
  line.setAttribute("aria-selected", String(place === current));
  line.setAttribute("aria-setsize", String(shown.length));
  line.setAttribute("aria-posinset", String(place + 1));
  line.style.top = `${place * ROW}px`;
  const top = make("div"), under = make("div", "note");
  top.append(make("b", "", row.task), make("span", "reward", row.reward.toFixed(2)));
  under.append(make("span", "", row.id), make("span", "", row.set === "train" ? `v${row.newest}` : row.set));
  line.append(top, under);
  line.addEventListener("click", () => select(place));
  return line;
}

function drawList() {
  const list = byId("list"), inside = byId("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  inside.style.height = `${shown.length * ROW}px`;
  inside.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, at) => drawRow(first + at)));
  if (current >= 0) list.setAttribute("aria-activedescendant", `row-${shown[current].number}`);
  else list.removeAttribute("aria-activedescendant");
}

function bringIntoSight(place) {
  const list = byId("list"), top = place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

async function select(place) {
  current = place;
  other = -1;
  if (place >= 0) bringIntoSight(place);
  byId("panes").scrollTop = 0;
  drawList();
  await draw();
}

/** A row by its number, also one that the filters hide: they are cleared then. */
async function go(number) {
  const place = shown.indexOf(rows[number]);
  if (place >= 0) { await select(place); return; }
  clearFilters();
  await filter();
  await select(shown.indexOf(rows[number]));
}

// ------------------------------------------------------------------------------------------------ what is looked at

let drawing = 0;

async function draw() {
  const mine = ++drawing, panes = byId("panes"), colour = byId("colour").value;
  if (current < 0) {
    panes.replaceChildren(make("p", "missing", "No trajectory passes these filters."));
    return;
  }
  const row = shown[current], members = groups.get(row.group);
  fillBeside(row, members);
  const wanted = other < 0 ? [row] : [row, rows[other]];
  const contents = await Promise.all(wanted.map((one) => block(one.block)));
  if (mine !== drawing) return;
  panes.replaceChildren();
  panes.classList.toggle("two", wanted.length > 1);
  wanted.forEach((one, at) => {
    const told = contents[at].trajectories[one.place];
    const pane = make("section", "pane");
    showTranscript(pane, one, told, contents[at].openings[told.o], colour, members, go);
    panes.append(pane);
  });
  explainColour(colour, wanted);
  history.replaceState(null, "", `#trajectory=${encodeURIComponent(row.id)}`);
}

function fillBeside(row, members) {
  const select = byId("beside");
  const options = members.filter((one) => one !== row);
  select.replaceChildren(new Option(options.length ? "nothing" : "alone in its group", ""),
    ...options.map((one) => new Option(`member ${one.member}, reward ${one.reward.toFixed(2)}`, String(one.number))));
  select.value = other < 0 ? "" : String(other);
  select.disabled = !options.length;
}

/** With another rollout of the group: first one of another reward, then the others, then alone again. */
function compareNext() {
  if (current < 0) return;
  const row = shown[current];
  const options = groups.get(row.group).filter((one) => one !== row);
  options.sort((one, two) => Number(two.reward !== row.reward) - Number(one.reward !== row.reward) || one.member - two.member);
  const next = options[options.findIndex((one) => one.number === other) + 1];
  other = next ? next.number : -1;
  draw();
}

function explainColour(colour, wanted) {
  const key = byId("key");
  const scale = (names, words) => {
    key.replaceChildren(...names.map((name) => make("span", `token ${name}`, "\u00a0\u00a0")), ` ${words}`);
  };
  if (colour === "log_prob") scale(["cold1", "cold3", "cold6"], "less and less likely when it was sampled (to -3 nats)");
  else if (colour === "version") {
    const found = new Set(wanted.flatMap((row) => [row.oldest, row.newest]));
    key.replaceChildren(...[...found].map((one) => make("span", `token version${one % VERSION_COLOURS}`, ` ${one} `)), " policy version that sampled it");
  } else if (colour === "ratio") {
    if (wanted.some((row) => row.ratio)) scale(["down6", "down3", "up3", "up6"], `less, more likely under version ${facts.ratio_version} than when it was sampled (to 1 nat)`);
    else key.replaceChildren("No log-ratio was computed of this one: the journal holds behaviour log-probs; `loop report --recompute N` adds ratios.");
  } else key.replaceChildren();
}

// ------------------------------------------------------------------------------------------------ wiring

function clearFilters() {
  byId("filters").reset();
}

function wire() {
  byId("filters").addEventListener("submit", (event) => { event.preventDefault(); filter({ deep: true }); });
  byId("search").addEventListener("input", () => filter());
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); filter({ deep: true }); }
  });
  for (const id of ["by-set", "by-scenario", "by-difficulty", "by-outcome", "by-state", "by-ratio", "order"]) byId(id).addEventListener("change", () => filter({ deep: true }));
  byId("clear").addEventListener("click", () => { clearFilters(); filter(); });
  byId("colour").addEventListener("change", draw);
  byId("beside").addEventListener("change", (event) => { other = event.target.value === "" ? -1 : Number(event.target.value); draw(); });
  byId("list").addEventListener("scroll", drawList);
  addEventListener("resize", drawList);
  addEventListener("hashchange", fromHash);
  const move = (by) => { if (shown.length) select(Math.max(0, Math.min(shown.length - 1, current + by))); };
  keys.j = () => move(1);
  keys.k = () => move(-1);
  keys["/"] = () => { byId("search").focus(); byId("search").select(); };
  keys.c = compareNext;
  keys.v = () => {
    const colour = byId("colour");
    colour.selectedIndex = (colour.selectedIndex + 1) % colour.options.length;
    draw();
  };
  byId("list").addEventListener("keydown", (event) => {
    const page = Math.floor(byId("list").clientHeight / ROW);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -shown.length, End: shown.length }[event.key];
    if (by !== undefined) { event.preventDefault(); move(by); }
  });
}

function fromHash() {
  const wanted = decodeURIComponent(/^#trajectory=(.*)$/.exec(location.hash)?.[1] ?? "");
  const row = rows.find((one) => one.id === wanted);
  if (row && row !== shown[current]) go(row.number);
  return Boolean(row);
}

async function begin() {
  if (!byId("list")) return;
  readIndex(await unpack("index"));
  for (const name of ["set", "scenario", "state"]) fill(`by-${name}`, distinct(name));
  fill("by-difficulty", distinct("difficulty").filter(Boolean).map(String));
  byId("by-ratio").closest("label").hidden = !rows.some((row) => row.ratio);
  byId("colour").value = "log_prob";
  wire();
  const asked = location.hash;
  shown = rows;
  if (!fromHash()) {
    await filter();
    if (asked) history.replaceState(null, "", asked);
  }
  document.documentElement.dataset.ready = "yes";
}

begin();
