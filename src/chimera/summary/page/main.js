// Putting it together: one choice and one state of folding for the tree and the picture.

function cellKey(index) {
  const cell = cells[index];
  return cell.kind === "fold" ? `f${cell.fold}` : `m${cell.module}`;
}

const cellsOf = new Map();
cells.forEach((cell, index) => {
  if (cell.kind !== "call" && cell.kind !== "fold") return;
  const key = cellKey(index);
  if (!cellsOf.has(key)) cellsOf.set(key, []);
  cellsOf.get(key).push(index);
});

const isOpen = (index) => index === 0 || trunk.open.has(cellKey(index));

// The cell that shows a row of the tree: its own, or the folded one that it is in.
function shownCell(key) {
  let [index] = cellsOf.get(key) || [];
  if (index === undefined) return null;
  while (index > 0 && !picture.layout.boxes.has(index)) index = cells[index].parent;
  return index > 0 ? index : null;
}

function choose(key, cell) {
  trunk.chosen = key;
  for (let up = above.get(key); up !== undefined; up = above.get(up)) {
    if (!trunk.open.has(up)) { trunk.open.add(up); choose.repaint = true; }
  }
  if (choose.repaint) { choose.repaint = false; paint(isOpen); }
  picture.chosen = cell === undefined ? shownCell(key) : cell;
  plant();
  mark();
  if (picture.chosen !== null) reveal(picture.chosen);
  byId("tree").querySelector(`[data-key="${key}"]`)?.scrollIntoView({ block: "nearest" });
  tell(key, cell);
}

function toggle(key) {
  if (!childKeys(key).length || key === "m0") return;
  const anchor = shownCell(key);
  const before = anchor === null ? null : { ...picture.layout.boxes.get(anchor) };
  trunk.open.has(key) ? trunk.open.delete(key) : trunk.open.add(key);
  plant();
  paint(isOpen);
  if (before && picture.layout.boxes.has(anchor)) { // what was unfolded stays where it was
    const box = picture.layout.boxes.get(anchor);
    picture.view.x += (before.left + before.width / 2 - box.left - box.width / 2) * picture.view.scale;
    picture.view.y += (before.top - box.top) * picture.view.scale;
    look();
  }
}

// A click on a cell.
function clicked(index, unfold) {
  if (cells[index].module < 0 && cells[index].kind !== "fold") {
    picture.chosen = index;
    mark();
    tell(trunk.chosen, index);
    return;
  }
  choose(cellKey(index), index);
  if (unfold) toggle(cellKey(index));
}

svg.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const ways = { ArrowDown: "next", ArrowUp: "before", ArrowLeft: "left", ArrowRight: "right" };
  if (event.key in ways) {
    const next = beside(ways[event.key]);
    if (next !== undefined) { clicked(next, false); reveal(next); }
  } else if (event.key === "Enter" || event.key === " ") {
    if (picture.chosen > 0) clicked(picture.chosen, true);
  } else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const doing = { "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: fit, "/": () => byId("search").focus() }[event.key];
  if (!doing) return;
  event.preventDefault();
  doing();
});

byId("search").addEventListener("input", (event) => {
  trunk.sought = event.target.value.trim();
  plant();
});
byId("search").addEventListener("keydown", (event) => {
  const row = byId("tree").querySelector(".row:not(.unmatched)");
  if (event.key === "Escape") { event.target.value = ""; trunk.sought = ""; plant(); event.target.blur(); }
  else if (event.key === "Enter" && row) {
    const { key } = row.dataset;
    trunk.sought = "";
    event.target.value = "";
    choose(key);
    focusRow();
  }
});

function measures() {
  byId("measures").replaceChildren(...MEASURES.map((measure) => made("button", {
    type: "button", role: "radio", "aria-checked": String(measure === trunk.measure),
    onclick: () => { trunk.measure = measure; measures(); plant(); },
  }, measure.label)));
}

// Unfolds level after level as long as the tree stays short.
function unfoldFirst(most) {
  trunk.open.add("m0");
  let level = childKeys("m0");
  let rows = 1 + level.length;
  while (level.length) {
    const next = [];
    for (const key of level) {
      const children = childKeys(key);
      if (!children.length || key[0] === "f" || rows + children.length > most) continue;
      trunk.open.add(key);
      rows += children.length;
      next.push(...children);
    }
    level = next;
  }
}

document.title = `${data.title} · summary`;
byId("title").textContent = data.title;
byId("totals").append(...data.totals.map(([what, figure]) => made("div", {}, made("dt", {}, what), made("dd", { title: figure }, figure))));
measures();
unfoldFirst(12);
plant();
paint(isOpen);
fit();
tell("m0");
window.addEventListener("resize", look);
