// Where the unfolded cells stand: each scope in layers, from what comes in down to what goes out
// (Sugiyama et al. 1981), its unfolded cells laid out before it.

const CARD = { width: 186, most: 300, height: 46 };
const PILL = { height: 26 };
const GAP = { x: 26, y: 34, lane: 12, pad: 18, head: 34 };
const IN = -2;
const OUT = -3;

// The cells inside each cell, in the order in which they ran; folds stand where their first does.
const inner = new Map();
const earliest = new Map();
cells.forEach((cell, index) => {
  if (cell.parent < 0) return;
  if (!inner.has(cell.parent)) inner.set(cell.parent, []);
  inner.get(cell.parent).push(index);
});
function firstStep(index) {
  if (!earliest.has(index)) {
    earliest.set(index, cells[index].kind === "fold" ? Math.min(...inner.get(index)) : index);
  }
  return earliest.get(index);
}
for (const list of inner.values()) list.sort((a, b) => firstStep(a) - firstStep(b));

const unfoldable = (index) => inner.has(index);

function sizeOf(index) {
  const cell = cells[index];
  if (cell.kind === "call" || cell.kind === "fold") {
    const { title, name, shape } = labels(index);
    const upper = widthOf(title, TITLE) + (unfoldable(index) ? 54 : 36);
    const lower = Math.min(widthOf(name, SMALL), 120) + widthOf(shape, SMALL) + 48;
    return { width: Math.min(CARD.most, Math.max(CARD.width, upper, lower)), height: CARD.height };
  }
  const width = Math.max(widthOf(operation(cell), "550 12px") + 26, cell.kind === "operation" ? 44 : 72);
  return { width, height: cell.kind === "operation" ? PILL.height : 30 };
}

const SIGNS = { add: "+", iadd: "+", mul: "×", imul: "×", sub: "−", isub: "−", div: "÷", truediv: "÷", cat: "concat" };
const operation = (cell) => SIGNS[cell.name] || cell.name;

// The shapes in which the outputs of calls were first taken.
const taken = new Map();
for (const [source, , shape] of edges) if (!taken.has(source)) taken.set(source, shape);

// What is written on the card of a call or a fold.
function labels(index) {
  const cell = cells[index];
  if (cell.kind === "fold") {
    const { label, names, output } = folds[cell.fold];
    return { title: label, name: names, shape: output };
  }
  const module = modules[cell.module];
  const again = module.calls > 1 && taken.get(index); // the module's own output is the first call's
  return { title: module.kind, name: module.name, shape: again || module.output };
}

// The layout of everything that is unfolded: { root, boxes, paths }, coordinates from the root's corner.
function layout(isOpen) {
  const shown = new Map();
  const seen = (index, as) => {
    shown.set(index, as);
    const next = as === index && isOpen(index) && unfoldable(index) ? null : as;
    for (const child of inner.get(index) || []) seen(child, next === null ? child : next);
  };
  seen(0, 0);
  const scopes = new Map();
  const join = (scope, from, to, shape, source) => {
    if (!scopes.has(scope)) scopes.set(scope, new Map());
    const key = `${from}>${to}`;
    const edge = scopes.get(scope).get(key) || { from, to, shapes: new Set(), sources: new Set() };
    edge.shapes.add(shape);
    edge.sources.add(source);
    scopes.get(scope).set(key, edge);
  };
  const chain = (index) => {
    const found = [];
    for (let at = index; at >= 0; at = cells[at].parent) found.push(at);
    return found.reverse();
  };
  for (const [source, target, shape] of edges) {
    const from = shown.get(source);
    const to = shown.get(target);
    if (from === to) continue;
    const up = chain(from);
    const down = chain(to);
    let depth = 0;
    while (depth < up.length && depth < down.length && up[depth] === down[depth]) depth += 1;
    if (depth >= up.length || depth >= down.length) continue;
    join(up[depth - 1], up[depth], down[depth], shape, source);
    for (let at = depth; at < down.length - 1; at += 1) join(down[at], IN, down[at + 1], shape, source);
    for (let at = depth; at < up.length - 1; at += 1) join(up[at], up[at + 1], OUT, shape, source);
  }
  const result = { boxes: new Map(), paths: [] };
  result.root = place(0, isOpen, shown, scopes, result);
  absolute(result, 0, 0, 0);
  return result;
}

// Lays out one cell: its size, and the places of what is inside, relative to its corner.
function place(index, isOpen, shown, scopes, result) {
  const open = shown.get(index) === index && isOpen(index) && unfoldable(index);
  if (!open) {
    const box = { ...sizeOf(index), open: false, x: 0, y: 0, inside: [], edges: [] };
    result.boxes.set(index, box);
    return box;
  }
  const inside = inner.get(index);
  const sizes = new Map(inside.map((child) => [child, place(child, isOpen, shown, scopes, result)]));
  const flat = index === 0;
  const made = layered(inside, sizes, [...(scopes.get(index) || new Map()).values()]);
  const pad = flat ? 0 : GAP.pad;
  const head = flat ? 0 : GAP.head;
  const box = {
    width: Math.max(made.width + 2 * pad, flat ? 0 : headWidth(index)), height: made.height + head + pad,
    open: true, x: 0, y: 0, inside, edges: made.edges,
  };
  const shift = (box.width - made.width) / 2;
  for (const child of inside) {
    const at = result.boxes.get(child);
    at.x = made.at.get(child).x + shift;
    at.y = made.at.get(child).y + head;
  }
  for (const edge of box.edges) {
    edge.points = edge.points.map(([x, y]) => [x + shift, y + head]);
    if (edge.from === IN) edge.points[0] = [box.width / 2, head - 6];
    if (edge.to === OUT) edge.points[edge.points.length - 1] = [box.width / 2, box.height];
  }
  result.boxes.set(index, box);
  return box;
}

function headWidth(index) {
  const { title, name } = labels(index);
  return Math.max(CARD.width + 2 * GAP.pad, widthOf(title, TITLE) + Math.min(widthOf(name, SMALL), 160) + 76);
}

function absolute(result, index, x, y) {
  const box = result.boxes.get(index);
  box.left = x + box.x;
  box.top = y + box.y;
  for (const edge of box.edges) {
    result.paths.push({ ...edge, scope: index, points: edge.points.map(([a, b]) => [a + box.left, b + box.top]) });
  }
  for (const child of box.inside) absolute(result, child, box.left, box.top);
}

// One scope: nodes in layers, long edges through the layers between.
function layered(inside, sizes, joined) {
  const nodes = new Map(inside.map((id, order) => [id, { id, ...sizes.get(id), order, layer: 0 }]));
  const ends = new Set(joined.flatMap((edge) => [edge.from, edge.to]));
  if (ends.has(IN)) nodes.set(IN, { id: IN, width: 1, height: 0, order: -1, layer: 0 });
  if (ends.has(OUT)) nodes.set(OUT, { id: OUT, width: 1, height: 0, order: 1e9, layer: 0 });
  const ordered = [...nodes.values()].sort((a, b) => a.order - b.order);
  const after = new Map(ordered.map((node) => [node.id, []]));
  const before = new Map(ordered.map((node) => [node.id, []]));
  for (const edge of joined) {
    if (nodes.get(edge.from).order >= nodes.get(edge.to).order) continue;
    after.get(edge.from).push(edge);
    before.get(edge.to).push(edge);
  }
  for (const node of ordered) {
    for (const edge of before.get(node.id)) node.layer = Math.max(node.layer, nodes.get(edge.from).layer + 1);
  }
  const last = Math.max(0, ...ordered.map((node) => node.layer));
  for (const node of ordered.reverse()) { // what waits for nothing stands just above who takes it
    const takers = after.get(node.id).map((edge) => nodes.get(edge.to).layer);
    if (node.id === OUT || (node.id >= 0 && cells[node.id].kind === "output")) node.layer = last;
    else if (!before.get(node.id).length && takers.length && node.id !== IN) node.layer = Math.min(...takers) - 1;
  }
  const layers = Array.from({ length: last + 1 }, () => []);
  for (const node of ordered.reverse()) layers[node.layer].push(node);

  const lanes = new Map(); // one way for all long edges of one source
  const links = [];
  const routes = [];
  for (const edges of after.values()) {
    for (const edge of edges) {
      const source = nodes.get(edge.from);
      const target = nodes.get(edge.to);
      const route = [source];
      for (let layer = source.layer + 1; layer < target.layer; layer += 1) {
        const key = `${edge.from}@${layer}`;
        if (!lanes.has(key)) {
          const lane = { lane: true, width: GAP.lane, height: 0, layer, order: source.order + .5 };
          lanes.set(key, lane);
          layers[layer].push(lane);
        }
        route.push(lanes.get(key));
      }
      route.push(target);
      routes.push({ edge, route });
      for (let i = 1; i < route.length; i += 1) links.push([route[i - 1], route[i]]);
    }
  }
  arrange(layers, links);
  const width = align(layers);
  let y = 0;
  for (const layer of layers) {
    const height = Math.max(0, ...layer.map((node) => node.height));
    for (const node of layer) {
      node.top = node.lane ? y : y + (height - node.height) / 2;
      node.bottom = node.lane ? y + height : node.top + node.height;
    }
    y += height + (height ? GAP.y : 12);
  }
  const height = y - GAP.y - (ends.has(OUT) ? 12 : 0);
  const at = new Map(inside.map((id) => [id, { x: nodes.get(id).x - nodes.get(id).width / 2, y: nodes.get(id).top }]));
  const made = routes.map(({ edge, route }) => ({
    from: edge.from, to: edge.to, shapes: [...edge.shapes], skip: route.length > 2 && skips(edge, after),
    points: route.flatMap((node, i) => {
      if (i === 0) return [[node.x, node.bottom]];
      if (i === route.length - 1) return [[node.x, node.top]];
      return [[node.x, node.top], [node.x, node.bottom]];
    }),
  }));
  return { width, height, at, edges: made };
}

// Whether there is another way from an edge's source to its target; of what comes into a scope,
// from the same source outside.
function skips(edge, after) {
  const seen = new Set([edge.from]);
  const alike = (other) => edge.from !== IN || [...other.sources].some((source) => edge.sources.has(source));
  const waiting = after.get(edge.from).filter((other) => other !== edge && alike(other)).map((other) => other.to);
  while (waiting.length) {
    const at = waiting.pop();
    if (at === edge.to) return true;
    if (seen.has(at)) continue;
    seen.add(at);
    waiting.push(...after.get(at).map((other) => other.to));
  }
  return false;
}

// Orders each layer by where its neighbours stand, down and up a few times.
function arrange(layers, links) {
  for (const layer of layers) layer.forEach((node) => { node.above = []; node.below = []; });
  for (const [from, to] of links) { from.below.push(to); to.above.push(from); }
  const settle = (layer) => layer.forEach((node, i) => { node.rank = (i + .5) / layer.length; });
  for (const layer of layers) { layer.sort((a, b) => a.order - b.order); settle(layer); }
  for (let sweep = 0; sweep < 6; sweep += 1) {
    const side = sweep % 2 ? "below" : "above";
    const order = sweep % 2 ? [...layers].reverse() : layers;
    for (const layer of order) {
      if (layer.length < 2) continue;
      for (const node of layer) {
        const near = node[side];
        node.wish = near.length ? near.reduce((sum, other) => sum + other.rank, 0) / near.length : node.rank;
      }
      layer.sort((a, b) => a.wish - b.wish || Number(!!a.lane) - Number(!!b.lane) || a.order - b.order);
      settle(layer);
    }
  }
}

// How much two neighbours want to stand in one line: most where each is the other's only one.
function pull(node, other) {
  if (node.lane && other.lane) return 8;
  const [upper, lower] = node.below.includes(other) ? [node, other] : [other, node];
  const alone = upper.below.length === 1 && lower.above.length === 1;
  return alone ? 6 : node.lane || other.lane ? .05 : 1;
}

// Lets what follows one another without a branch stand in one line, as far as its neighbours allow.
function straighten(layers) {
  for (const layer of layers) layer.forEach((node, i) => { node.left = layer[i - 1]; node.right = layer[i + 1]; });
  const only = (near, lane) => { // the one box, or the one lane, among them
    const alike = near.filter((other) => Boolean(other.lane) === lane);
    return alike.length === 1 ? alike[0] : null;
  };
  const follows = (node) => {
    const next = only(node.below, Boolean(node.lane));
    return next && only(next.above, Boolean(node.lane)) ? next : null;
  };
  const taken = new Set();
  const lines = [];
  for (const start of layers.flat()) {
    if (taken.has(start)) continue;
    const line = [];
    for (let node = start; node && !taken.has(node); node = follows(node)) { taken.add(node); line.push(node); }
    if (line.length > 1) lines.push(line);
  }
  lines.sort((a, b) => b.length - a.length);
  const apart = (a, b) => (a.width + b.width) / 2 + GAP.x;
  for (let sweep = 0; sweep < 6; sweep += 1) {
    for (const line of lines) {
      const least = Math.max(...line.map((node) => (node.left ? node.left.x + apart(node.left, node) : -Infinity)));
      const most = Math.min(...line.map((node) => (node.right ? node.right.x - apart(node, node.right) : Infinity)));
      if (least > most + 1e-6) continue;
      const wish = line.reduce((sum, node) => sum + node.x, 0) / line.length;
      const x = Math.max(least, Math.min(most, wish));
      for (const node of line) node.x = x;
    }
  }
}

// Gives each node the place nearest to its neighbours' that keeps order and distance: least squares
// in each layer, by pooling adjacent violators (Ayer et al. 1955).
function align(layers) {
  for (const layer of layers) {
    let x = 0;
    for (const node of layer) {
      node.offset = x + node.width / 2;
      node.x = node.offset;
      x += node.width + GAP.x;
    }
    for (const node of layer) node.x -= (x - GAP.x) / 2;
  }
  const many = layers.length > 400 ? 2 : 41;
  for (let sweep = 0; sweep < many; sweep += 1) {
    const order = sweep % 2 ? [...layers].reverse() : layers;
    for (const layer of order) {
      const pools = [];
      for (const node of layer) {
        const near = sweep === many - 1 ? [...node.above, ...node.below] : node[sweep % 2 ? "below" : "above"];
        let wish = node.x;
        let weight = .01;
        if (near.length) {
          const weights = near.map((other) => pull(node, other));
          weight = weights.reduce((a, b) => a + b, 0);
          wish = near.reduce((sum, other, i) => sum + weights[i] * other.x, 0) / weight;
        }
        pools.push({ sum: weight * (wish - node.offset), weight, nodes: [node] });
        while (pools.length > 1) {
          const [a, b] = pools.slice(-2);
          if (a.sum / a.weight <= b.sum / b.weight) break;
          pools.splice(-2, 2, { sum: a.sum + b.sum, weight: a.weight + b.weight, nodes: [...a.nodes, ...b.nodes] });
        }
      }
      for (const pool of pools) for (const node of pool.nodes) node.x = node.offset + pool.sum / pool.weight;
    }
  }
  straighten(layers);
  const all = layers.flat();
  const left = Math.min(...all.map((node) => node.x - node.width / 2));
  const right = Math.max(...all.map((node) => node.x + node.width / 2));
  for (const node of all) node.x -= left;
  return right - left;
}
