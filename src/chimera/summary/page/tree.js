// The tree of modules: only what is unfolded stands in the page.

const trunk = { open: new Set(), measure: MEASURES[0], chosen: "m0", sought: "" };

// A row is known by "m" and a module's index, or "f" and a fold's.
const keyOf = ([module, fold]) => (module < 0 ? `f${fold}` : `m${module}`);
const foldOf = (key) => (key[0] === "f" ? folds[Number(key.slice(1))] : null);
const moduleOf = (key) => (key[0] === "m" ? modules[Number(key.slice(1))] : null);

function childKeys(key) {
  const fold = foldOf(key);
  return fold ? fold.modules.map((index) => `m${index}`) : moduleOf(key).children.map(keyOf);
}

const above = new Map();
(function remember(key) {
  for (const child of childKeys(key)) { above.set(child, key); remember(child); }
})("m0");

function visibleRows() {
  const rows = [];
  (function visit(key, level) {
    rows.push({ key, level });
    if (trunk.open.has(key)) for (const child of childKeys(key)) visit(child, level + 1);
  })("m0", 1);
  return rows;
}

// The rows that a search leaves: those that match and what leads to them.
function soughtRows() {
  const words = trunk.sought.toLowerCase();
  const keep = new Map();
  modules.forEach((module, index) => {
    if (!module.path.toLowerCase().includes(words) && !module.kind.toLowerCase().includes(words)) return;
    for (let key = `m${index}`; key !== undefined; key = above.get(key)) {
      keep.set(key, keep.get(key) || key === `m${index}`);
    }
  });
  const rows = [];
  (function visit(key, level) {
    if (!keep.has(key) || rows.length >= 500) return;
    rows.push({ key, level, matched: keep.get(key), open: true });
    for (const child of childKeys(key)) visit(child, level + 1);
  })("m0", 1);
  return rows;
}

function plant() {
  const rows = trunk.sought ? soughtRows() : visibleRows();
  const whole = modules[0][trunk.measure.key] || 0;
  const focused = document.activeElement && document.activeElement.closest("#tree");
  const tree = byId("tree");
  const scroll = tree.scrollTop;
  tree.replaceChildren(...rows.map((row) => leaf(row, whole)));
  if (!rows.length) tree.append(made("p", { class: "note", role: "none" }, "Nothing matches."));
  tree.scrollTop = scroll;
  if (!tree.querySelector("[tabindex='0']") && tree.firstChild && rows.length) tree.firstChild.tabIndex = 0;
  if (focused) focusRow();
}

function leaf({ key, level, matched, open }, whole) {
  const fold = foldOf(key);
  const module = fold || moduleOf(key);
  const children = childKeys(key).length;
  const amount = module[trunk.measure.key] || 0;
  const severity = fold ? worst(fold.modules[0]) : worst(Number(key.slice(1)));
  const row = made("div", {
    class: matched === false ? "row unmatched" : "row", role: "treeitem", "data-key": key, "aria-level": level,
    tabindex: key === trunk.chosen ? 0 : -1, "aria-selected": String(key === trunk.chosen),
    "aria-expanded": children ? String(open || trunk.open.has(key)) : null,
    title: fold ? fold.label : `${module.path || "the root"}: ${module.kind}`,
    style: `padding-left: ${(level - 1) * 15 + 4}px; --hue: ${fold ? "var(--group)" : hue(module)}`,
  },
  made("span", { class: "twist", "aria-hidden": "true" }, children ? "▶" : ""),
  made("span", { class: "dot", "aria-hidden": "true" }),
  " ", made("span", { class: "name" }, fold ? fold.names : module.name), " ",
  made("span", { class: "kind" }, fold ? fold.label : module.kind));
  if (!fold && isTied(module)) row.append(made("span", { class: "mark", title: "tied" }, "↔"));
  if (severity) row.append(made("span", { class: `flag ${severity}`, role: "img", "aria-label": severity, title: severity }));
  if (amount) {
    row.append(" ", made("span", { class: "figure" }, trunk.measure.text(amount)));
    row.append(made("span", { class: "share", "aria-hidden": "true" },
      made("i", { style: `width: ${Math.max(2, 100 * amount / whole)}%` })));
  }
  return row;
}

const isTied = (module) => module.tied_to !== null || module.tensors.some((tensor) => tensor.owner !== null);

function focusRow() {
  const row = byId("tree").querySelector(`[data-key="${trunk.chosen}"]`);
  if (row) { row.focus({ preventScroll: true }); row.scrollIntoView({ block: "nearest" }); }
}

byId("tree").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  const { key } = row.dataset;
  choose(key);
  if (event.target.classList.contains("twist") || event.detail > 1) toggle(key);
  focusRow();
});

byId("tree").addEventListener("keydown", (event) => {
  const rows = [...byId("tree").querySelectorAll(".row")].map((row) => row.dataset.key);
  const at = rows.indexOf(trunk.chosen);
  const open = trunk.open.has(trunk.chosen);
  const children = childKeys(trunk.chosen).length > 0;
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + 12, PageUp: at - 12 };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) choose(rows[Math.min(rows.length - 1, Math.max(0, steps[event.key]))]);
  else if (event.key === "ArrowRight" && children) open ? choose(childKeys(trunk.chosen)[0]) : toggle(trunk.chosen);
  else if (event.key === "ArrowLeft") {
    if (open && children) toggle(trunk.chosen);
    else if (above.has(trunk.chosen)) choose(above.get(trunk.chosen));
  } else if (event.key === "Enter" || event.key === " ") toggle(trunk.chosen);
  else return;
  event.preventDefault();
  focusRow();
});
