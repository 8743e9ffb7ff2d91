// The picture of the flow: boxes, edges, ties; zooming, dragging, moving by keys.

const picture = { layout: null, view: { x: 0, y: 0, scale: 1 }, chosen: null };

const svg = byId("graph");
const scene = byId("scene");

function curve(points) {
  let path = `M${points[0][0]} ${points[0][1]}`;
  for (let i = 1; i < points.length; i += 1) {
    const [x0, y0] = points[i - 1];
    const [x, y] = points[i];
    const middle = (y0 + y) / 2;
    path += x0 === x ? `V${y}` : `C${x0} ${middle} ${x} ${middle} ${x} ${y}`;
  }
  return path;
}

function paint(isOpen) {
  picture.layout = layout(isOpen);
  const { boxes, paths } = picture.layout;
  const groups = drawn("g");
  const lines = drawn("g", { "aria-hidden": "true" });
  const cards = drawn("g");
  (function paintInside(index) {
    const box = boxes.get(index);
    for (const child of box.inside) {
      (boxes.get(child).open ? groups : cards).append(card(child, boxes.get(child)));
      paintInside(child);
    }
  })(0);
  if (!boxes.get(0).inside.length) cards.append(card(0, boxes.get(0)));
  for (const edge of paths) {
    if (edge.points.length < 2) continue;
    const path = drawn("path", {
      class: edge.skip ? "edge skip" : "edge", d: curve(edge.points),
      "marker-end": edge.to === OUT ? null : "url(#arrow)",
    }, drawn("title", {}, edge.shapes.join(", ")));
    path.dataset.from = edge.from;
    path.dataset.to = edge.to;
    lines.append(path);
  }
  const ties = drawn("g");
  const around = boxes.get(0).inside.map((index) => boxes.get(index));
  for (const [a, b, what] of tiedBoxes(boxes)) ties.append(tie(a, b, what, around, 9 * ties.childElementCount));
  scene.replaceChildren(groups, lines, ties, cards);
  const found = [];
  if (lines.querySelector(".skip")) found.push(made("span", {}, made("i"), "skip connection"));
  if (ties.childElementCount) found.push(made("span", {}, made("i", { class: "tie" }), "one and the same tensor"));
  if (!data.complete) found.push(made("span", {}, "the end of a long run is left out"));
  byId("legend").replaceChildren(...found);
  mark();
}

function card(index, box) {
  const cell = cells[index];
  const { left: x, top: y, width, height } = box;
  const module = cell.module >= 0 ? modules[cell.module] : null;
  const fold = cell.kind === "fold" ? folds[cell.fold] : null;
  const group = drawn("g", { class: "cell", transform: `translate(${x} ${y})`, "data-cell": index });
  if (!module && !fold) {
    const end = cell.kind !== "operation";
    group.classList.add(end ? "end" : "pill");
    group.append(
      drawn("rect", { class: "box", width, height, rx: height / 2 }),
      drawn("text", { x: width / 2, y: height / 2 + 4 }, operation(cell)),
    );
    return group;
  }
  const { title, name, shape } = labels(index);
  group.style.setProperty("--hue", fold ? "var(--group)" : hue(module));
  if (fold && !box.open) {
    group.classList.add("stack");
    group.append(drawn("rect", { class: "under", x: 6, y: 6, width: width - 6, height, rx: 9 }),
      drawn("rect", { class: "under", x: 3, y: 3, width: width - 3, height, rx: 9 }));
  }
  group.append(drawn("title", {}, `${module ? module.path || "the root" : name}: ${title}`),
    drawn("rect", { class: "box", width, height, rx: box.open ? 12 : 9 }));
  if (box.open) {
    group.classList.add("group");
    group.append(drawn("text", { class: "title", x: 16, y: 22 }, title),
      drawn("text", { class: "under-title", x: 24 + widthOf(title, TITLE), y: 22 }, cut(name, 160, SMALL)));
  } else {
    group.append(
      drawn("rect", { class: "hue", x: 9, y: 11, width: 3.5, height: height - 22, rx: 1.75 }),
      drawn("text", { class: "title", x: 21, y: 20 }, cut(title, width - (unfoldable(index) ? 52 : 34), TITLE)),
      drawn("text", { class: "under-title", x: 21, y: 36 }, cut(name, 120, SMALL)),
      drawn("text", { class: "shape", x: width - 11, y: 36 },
        cut(shape, width - 44 - Math.min(120, widthOf(name, SMALL)), SMALL)),
    );
  }
  if (unfoldable(index)) {
    const sign = drawn("text", { class: "more", x: width - 16, y: box.open ? 23 : 21 }, box.open ? "−" : "+");
    group.append(sign);
  }
  const severity = fold ? null : worst(cell.module);
  if (severity) {
    group.append(drawn("circle", { cx: width - 2, cy: 2, r: 5, fill: `var(--${severity})` },
      drawn("title", {}, severity)));
  }
  return group;
}

// Pairs of shown boxes that hold one tensor, or that one module runs as.
function tiedBoxes(boxes) {
  const at = new Map();
  const visible = (index) => {
    while (index >= 0 && !(boxes.has(index) && !boxes.get(index).open)) index = cells[index].parent;
    return index;
  };
  cells.forEach((cell, index) => {
    if (cell.kind !== "call") return;
    if (!at.has(cell.module)) at.set(cell.module, []);
    const box = visible(index);
    if (box >= 0 && !at.get(cell.module).includes(box) && at.get(cell.module).length < 8) at.get(cell.module).push(box);
  });
  const pairs = new Map();
  const add = (a, b, what) => {
    if (a !== undefined && b !== undefined && a !== b) pairs.set(`${a} ${b}`, [boxes.get(a), boxes.get(b), what]);
  };
  modules.forEach((module, index) => {
    const places = at.get(index) || [];
    if (!module.children.length && module.own) {
      for (let i = 1; i < places.length; i += 1) add(places[i - 1], places[i], `${module.path} runs again`);
    }
    for (const tensor of module.tensors) {
      if (tensor.owner !== null) add((at.get(tensor.owner) || [])[0], places[0], `${tensor.name} is ${tensor.tied_to}`);
    }
  });
  return pairs.values();
}

// A line down the left of all that stands between.
function tie(a, b, what, around, shift) {
  const [upper, lower] = a.top <= b.top ? [a, b] : [b, a];
  const y0 = upper.top + upper.height / 2;
  const y1 = lower.top + lower.height / 2;
  const between = around.filter((box) => box.top < y1 && box.top + box.height > y0).map((box) => box.left);
  const out = Math.min(upper.left, lower.left, ...between) - 26 - Math.min(shift, 90);
  const turn = Math.min(28, (y1 - y0) / 2);
  return drawn("path", { class: "edge tie",
    d: `M${upper.left} ${y0}C${out} ${y0} ${out} ${y0} ${out} ${y0 + turn}V${y1 - turn}C${out} ${y1} ${out} ${y1} ${lower.left} ${y1}` },
    drawn("title", {}, what));
}

function look() {
  const { x, y, scale } = picture.view;
  scene.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);
}

function fit() {
  const { width, height } = svg.getBoundingClientRect();
  const { root } = picture.layout;
  const bounds = scene.getBBox();
  const room = 36;
  const scale = Math.min(1.15, (width - 2 * room) / Math.max(bounds.width, 1),
    Math.max((height - 2 * room) / Math.max(bounds.height, 1), .55));
  picture.view = {
    scale,
    x: (width - bounds.width * scale) / 2 - bounds.x * scale,
    y: Math.max(room, (height - root.height * scale) / 2) - Math.max(0, bounds.y) * scale,
  };
  look();
}

function zoom(factor, centre) {
  const { width, height } = svg.getBoundingClientRect();
  const [cx, cy] = centre || [width / 2, height / 2];
  const { x, y, scale } = picture.view;
  const next = Math.min(4, Math.max(.02, scale * factor));
  picture.view = { scale: next, x: cx - (cx - x) * next / scale, y: cy - (cy - y) * next / scale };
  look();
}

// Brings a box into sight, moving as little as possible.
function reveal(index) {
  const box = picture.layout.boxes.get(index);
  if (!box) return;
  const { width, height } = svg.getBoundingClientRect();
  const { view } = picture;
  const room = 40;
  const bring = (start, length, offset, limit) => {
    const from = start * view.scale + offset;
    const to = from + Math.min(length * view.scale, limit - 2 * room);
    if (from < room) return room - from;
    return to > limit - room ? limit - room - to : 0;
  };
  view.x += bring(box.left, box.width, view.x, width);
  view.y += bring(box.top, box.height, view.y, height);
  look();
}

// Shows which box is chosen, and the edges at it.
function mark() {
  for (const element of scene.querySelectorAll(".chosen, .near")) element.classList.remove("chosen", "near");
  const index = picture.chosen;
  if (index === null) return;
  const element = scene.querySelector(`[data-cell="${index}"]`);
  if (element) element.classList.add("chosen");
  for (const edge of scene.querySelectorAll(`[data-from="${index}"], [data-to="${index}"]`)) edge.classList.add("near");
}

// The box beside the chosen one: "next" and "before" along the edges, "left" and "right" across.
function beside(direction) {
  const { boxes, paths } = picture.layout;
  const here = boxes.get(picture.chosen);
  if (!here) return boxes.get(0).inside[0];
  const key = direction === "next" ? ["from", "to"] : ["to", "from"];
  if (direction === "next" || direction === "before") {
    const found = paths.filter((edge) => edge[key[0]] === picture.chosen).map((edge) => edge[key[1]]);
    const other = found.find((index) => index >= 0);
    if (other !== undefined) return other;
    return direction === "next" ? afterScope(picture.chosen) : cells[picture.chosen].parent || undefined;
  }
  const side = boxes.get(cells[picture.chosen].parent).inside.filter((index) => {
    const box = boxes.get(index);
    return index !== picture.chosen && box.top < here.top + here.height && here.top < box.top + box.height
      && (direction === "left" ? box.left < here.left : box.left > here.left);
  });
  side.sort((a, b) => Math.abs(boxes.get(a).left - here.left) - Math.abs(boxes.get(b).left - here.left));
  return side[0];
}

function afterScope(index) {
  const scope = cells[index].parent;
  if (scope <= 0) return undefined;
  const edge = picture.layout.paths.find((path) => path.from === scope && path.to >= 0);
  return edge ? edge.to : afterScope(scope);
}

svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? .05 : .0016)), [event.clientX - box.left, event.clientY - box.top]);
}, { passive: false });

svg.addEventListener("pointerdown", (event) => {
  const start = { x: event.clientX, y: event.clientY, view: { ...picture.view } };
  let moved = false;
  const move = (now) => {
    if (!moved && Math.hypot(now.clientX - start.x, now.clientY - start.y) < 4) return;
    moved = true;
    svg.classList.add("dragging");
    picture.view.x = start.view.x + now.clientX - start.x;
    picture.view.y = start.view.y + now.clientY - start.y;
    look();
  };
  const stop = (now) => {
    svg.classList.remove("dragging");
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", stop);
    const hit = !moved && now.target.closest && now.target.closest("[data-cell]");
    if (hit) clicked(Number(hit.dataset.cell), now.target.classList.contains("more") || now.detail > 1);
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", stop);
});

byId("zoom-in").addEventListener("click", () => zoom(1.3));
byId("zoom-out").addEventListener("click", () => zoom(1 / 1.3));
byId("zoom-fit").addEventListener("click", fit);
