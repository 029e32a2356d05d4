"use strict";
/* The page around the figures: light and dark, what a mark says, the list of keys. viewer.js shows the trajectories. */

const byId = (id) => document.getElementById(id);

/** An element with a class and text. Text is always a text node: nothing that a policy wrote is ever read as HTML. */
function make(tag, kind, text) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ------------------------------------------------------------------------------------------------ light and dark

const THEMES = ["system", "light", "dark"];

function remembered() {
  try { return localStorage.getItem("loop-report-theme"); } catch { return null; } // a file may have no storage
}

function useTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").querySelector("span").textContent = name;
  byId("theme").setAttribute("aria-label", `Theme: ${name}. Press for the next`);
  try { localStorage.setItem("loop-report-theme", name); } catch { /* not kept, then */ }
}

function nextTheme() {
  useTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
}

useTheme(THEMES.includes(remembered()) ? remembered() : "system");
byId("theme").addEventListener("click", nextTheme);

// ------------------------------------------------------------------------------------------------ what a mark says

const tip = byId("tip");

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - box.width - 10 : x + 14;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - box.height - 4))}px`;
}

document.addEventListener("pointermove", (event) => {
  const told = event.target.closest?.("[data-tip]");
  if (told) showTip(told.dataset.tip, event.clientX, event.clientY);
  else tip.hidden = true;
});
document.addEventListener("scroll", () => { tip.hidden = true; }, true);

// ------------------------------------------------------------------------------------------------ keys

const keys = {}; // by key, what it does; viewer.js adds its own

const help = byId("help");
const openHelp = () => { if (!help.open) help.showModal(); };
byId("help-button").addEventListener("click", openHelp);
keys["?"] = openHelp;
keys.t = nextTheme;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const at = event.target;
  const typing = at.matches?.("input, textarea, select");
  if (typing && event.key === "Escape") { at.blur(); return; }
  if (typing || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

// paper has no buttons: what a person may want to read on it is open there
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details.opening:not([open]), #configuration details:not([open])")) { one.open = true; one.dataset.printed = ""; }
});
addEventListener("afterprint", () => {
  for (const one of document.querySelectorAll("details[data-printed]")) { one.open = false; delete one.dataset.printed; }
});
