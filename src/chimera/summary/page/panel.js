// What is known of the chosen block: shapes, figures, findings, tensors, single neurons.

function tell(key, cell) {
  const panel = byId("panel");
  panel.scrollTop = 0;
  if (cell !== undefined && cells[cell].module < 0 && cells[cell].kind !== "fold") {
    panel.replaceChildren(...aboutOperation(cell));
    return;
  }
  const fold = foldOf(key);
  panel.replaceChildren(...(fold ? aboutFold(fold) : aboutModule(moduleOf(key))), keys());
}

function shapesLine(inputs, output) {
  const parts = [made("span", {}, inputs)];
  if (inputs !== output) parts.push(made("b", {}, "→"), made("span", {}, output));
  return made("div", { class: "shapes", "aria-label": "Shapes, in and out" }, ...parts);
}

function facts(pairs) {
  return made("dl", { class: "facts" }, ...pairs.flatMap(([what, figure]) => [made("dt", {}, what), made("dd", {}, figure)]));
}

function figures(block) {
  const pairs = [["Parameters", full(block.parameters)]];
  if (block.own && block.own !== block.parameters) pairs.push(["of its own", full(block.own)]);
  if (block.shared) pairs.push(["shared with another", full(block.shared)]);
  if (block.frozen) pairs.push(["frozen", full(block.frozen)]);
  if (block.buffers) pairs.push(["Buffers", full(block.buffers)]);
  pairs.push(["Multiply-adds", full(block.multiply_adds)], ["Kept for backward", size(block.activations)]);
  if (block.seconds) pairs.push(["Forward", `${time(block.seconds)}, ${share(block.seconds)}`]);
  if (block.calls > 1) pairs.push(["Calls", String(block.calls)]);
  return pairs;
}

const share = (seconds) => `${(100 * seconds / modules[0].seconds).toFixed(0)}%`;

function aboutOperation(index) {
  const taken = edges.filter(([, target]) => target === index).map(([, , shape]) => shape);
  const given = edges.filter(([source]) => source === index).map(([, , shape]) => shape);
  const kind = { operation: "An operation in a forward", input: "An input", output: "An output" }[cells[index].kind];
  const parent = cells[cells[index].parent];
  return [
    made("h2", {}, cells[index].name), made("p", { class: "path" }, kind),
    shapesLine(taken.join(", ") || given[0] || "", [...new Set(given)].join(", ") || taken[0] || ""),
    parent && parent.module > 0 ? made("p", { class: "note" }, "in ", link(`m${parent.module}`, modules[parent.module].path)) : "",
    keys(),
  ];
}

function aboutFold(fold) {
  return [
    made("h2", {}, fold.label), made("p", { class: "path" }, `${fold.names}: equal in all but their values`),
    shapesLine(fold.inputs, fold.output), made("h3", {}, "All together"), facts(figures(fold)),
    made("h3", {}, "One of them"),
    made("p", { class: "note" }, link(`m${fold.modules[0]}`, modules[fold.modules[0]].path)),
  ];
}

function aboutModule(module) {
  const parts = [made("h2", {}, module.kind), made("p", { class: "path" }, module.path || "the root")];
  if (module.settings) parts.push(made("p", { class: "settings" }, module.settings));
  if (module.tied_to !== null) {
    parts.push(made("p", { class: "note" }, "The same module as ", link(`m${module.tied_to}`, modules[module.tied_to].path)));
    return parts;
  }
  if (module.calls) parts.push(shapesLine(module.inputs, module.output));
  else parts.push(made("p", { class: "note" }, "Not called itself in the run that was seen."));
  parts.push(...module.findings.map(finding), facts(figures(module)));
  if (module === modules[0]) parts.push(...everyFinding());
  if (module.tensors.length) parts.push(made("h3", {}, "Parameters and buffers"), ...module.tensors.map(tensor));
  if (module.units) parts.push(...units(module));
  return parts;
}

// Where in the network something was found, the worst first.
function everyFinding() {
  const found = modules.flatMap((module, index) => (index ? module.findings : [])
    .map(({ severity, rule }) => ({ severity, rule, key: `m${index}`, path: module.path })));
  if (!found.length) return [];
  found.sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity));
  const line = ({ severity, rule, key, path }) => made("li", {},
    made("span", { class: `flag ${severity}`, role: "img", "aria-label": severity, title: severity }), " ", link(key, path), ` ${rule}`);
  return [made("h3", {}, "Findings further down"), made("ul", { class: "found" }, ...found.slice(0, 200).map(line))];
}

function finding({ severity, rule, message, why, mend, file, line }) {
  return made("div", { class: `finding ${severity}`, role: "note" },
    made("b", {}, severity), ` ${rule}`, made("p", {}, message), made("p", {}, why), made("p", { class: "mend" }, mend),
    file ? made("p", { class: "mend" }, `${file}:${line}`) : "");
}

function tensor(row) {
  const tags = row.kind === "buffer" ? "buffer" : row.trains ? "" : "frozen";
  const parts = [made("div", { class: "tensor-head" }, made("b", {}, row.name), made("span", {}, row.shape),
    made("span", { class: "tag" }, tags))];
  if (row.owner !== null) {
    parts.push(made("p", { class: "note" }, "The same tensor as ", link(`m${row.owner}`, row.tied_to)));
  } else if (row.waits || !row.histogram) {
    parts.push(made("p", { class: "note" }, "No values yet: build the network first."));
  } else if (!row.histogram.counts) {
    parts.push(made("p", { class: "note" }, "No finite number in it."));
  } else parts.push(...histogram(row));
  return made("div", { class: "tensor" }, ...parts);
}

function histogram({ name, histogram: found }) {
  const most = Math.max(...found.counts);
  const wide = 300 / found.counts.length;
  const bars = found.counts.map((count, i) => drawn("rect", {
    x: i * wide + .5, width: wide - 1, y: 60 - 58 * count / most, height: 58 * count / most,
  }, drawn("title", {}, `${number(found.low + i * (found.high - found.low) / found.counts.length)}: ${count}`)));
  const parts = [
    drawn("svg", { class: "histogram", viewBox: "0 0 300 62", preserveAspectRatio: "none", role: "img",
      "aria-label": `Histogram of ${name}` }, ...bars, drawn("line", { x1: 0, x2: 300, y1: 61, y2: 61 })),
    made("div", { class: "axis" }, made("span", {}, number(found.least)),
      made("span", {}, `mean ${number(found.mean)}, std ${number(found.std)}`), made("span", {}, number(found.most))),
  ];
  if (found.zeros) parts.push(made("p", { class: "note" }, `${(100 * found.zeros).toPrecision(3)}% zeros`));
  if (found.strange) parts.push(made("p", { class: "note" }, `${full(found.strange)} NaN or infinite`));
  if (found.every > 1) parts.push(made("p", { class: "note" }, `every ${found.every}th number was looked at`));
  return parts;
}

const link = (key, text) => made("button", { class: "link", type: "button", onclick: () => { choose(key); byId("panel").focus(); } }, text);

// A map of the layer's neurons, as dark as their weights are large; one can be looked into.
function units(module) {
  const found = module.units;
  const columns = Math.min(found.count, Math.max(8, Math.ceil(Math.sqrt(found.count * 4))));
  const rows = Math.ceil(found.count / columns);
  const what = module.kind.includes("Conv") ? "Filters" : "Neurons";
  const canvas = made("canvas", { class: "units", width: columns, height: rows, tabindex: 0, role: "slider",
    "aria-label": `${what}: arrow keys choose one`, "aria-valuemin": 0, "aria-valuemax": found.count - 1, "aria-valuenow": 0 });
  canvas.style.aspectRatio = `${columns} / ${rows}`;
  const detail = made("div", { class: "unit" });
  const most = Math.max(...found.norm) || 1;
  let chosen = 0;
  const show = (index) => {
    chosen = Math.min(found.count - 1, Math.max(0, index));
    canvas.setAttribute("aria-valuenow", chosen);
    canvas.setAttribute("aria-valuetext", `${module.path}[${chosen}], norm ${number(found.norm[chosen])}`);
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, columns, rows);
    const colour = getComputedStyle(document.body).getPropertyValue("--accent");
    found.norm.forEach((norm, i) => {
      pen.globalAlpha = i === chosen ? 1 : .12 + .6 * norm / most;
      pen.fillStyle = i === chosen ? getComputedStyle(document.body).getPropertyValue("--nonlinear") : colour;
      pen.fillRect(i % columns, Math.floor(i / columns), 1, 1);
    });
    detail.replaceChildren(...unit(module, chosen));
  };
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width * columns);
    show(column + columns * Math.floor((event.clientY - box.top) / box.height * rows));
  });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(chosen + steps[event.key]);
  });
  show(0);
  return [made("h3", {}, `${full(found.count)} ${what.toLowerCase()} of ${found.shape.join("×")} weights, by norm`), canvas, detail];
}

function unit(module, index) {
  const found = module.units;
  const pairs = [["Norm", number(found.norm[index])], ["Mean", number(found.mean[index])], ["Std", number(found.std[index])]];
  if (found.bias) pairs.push(["Bias", number(found.bias[index])]);
  const parts = [made("b", {}, `${module.path}[${index}]`)];
  if (found.weights) parts.push(strip(found, index));
  return [...parts, facts(pairs)];
}

const bytes = new WeakMap();

// The weights of one neuron as a strip or an image: one sign in one colour, zero pale.
function strip(found, index) {
  if (!bytes.has(found)) bytes.set(found, Int8Array.from(atob(found.weights), (char) => (char.charCodeAt(0) << 24) >> 24));
  const count = found.shape.reduce((a, b) => a * b, 1);
  const deep = found.shape.length > 1 ? found.shape[found.shape.length - 1] : 0;
  const columns = deep ? deep * Math.min(count / deep / (found.shape[1] || 1), Math.max(1, Math.floor(64 / deep))) : Math.min(count, 32);
  const rows = Math.ceil(count / columns);
  const canvas = made("canvas", { width: columns, height: rows, role: "img", "aria-label": `Weights of ${index}` });
  canvas.style.aspectRatio = `${columns} / ${Math.max(rows, columns / 24)}`;
  const most = 127;
  const pen = canvas.getContext("2d");
  for (let i = 0; i < count; i += 1) {
    const value = bytes.get(found)[index * count + i] / most;
    pen.fillStyle = value < 0 ? `rgb(214 138 28 / ${-value})` : `rgb(20 144 127 / ${value})`;
    const [x, y] = position(i, found.shape, columns);
    pen.fillRect(x, y, 1, 1);
  }
  return canvas;
}

// Where the i-th weight stands: kernels of two axes as small images beside one another.
function position(i, shape, columns) {
  if (shape.length !== 3) return [i % columns, Math.floor(i / columns)];
  const [, high, wide] = shape;
  const kernel = Math.floor(i / (high * wide));
  const inside = i % (high * wide);
  const across = Math.max(1, Math.floor(columns / wide));
  return [(kernel % across) * wide + inside % wide, Math.floor(kernel / across) * high + Math.floor(inside / wide)];
}

function keys() {
  const key = (name) => made("kbd", {}, name);
  return made("p", { class: "keys" }, key("/"), " find  ", key("↑"), " ", key("↓"), " move  ", key("←"), " ", key("→"),
    " fold, unfold  ", key("+"), " ", key("−"), " zoom  ", key("0"), " fit");
}
