// Making elements, and writing figures.

const data = JSON.parse(document.getElementById("data").textContent);
const { modules, folds, cells, edges } = data;

const byId = (id) => document.getElementById(id);

function made(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function scaled(value, base, units) {
  let unit = 0;
  while (unit < units.length - 1 && Math.max(value, Number(value.toPrecision(3))) >= base) { value /= base; unit += 1; }
  if (unit === 0) return value.toFixed(0) + units[0];
  return value.toFixed(value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2) + units[unit];
}
const short = (count) => scaled(count, 1000, ["", "k", "M", "G", "T", "P", "E"]);
const size = (bytes) => scaled(bytes, 1024, [" B", " KiB", " MiB", " GiB", " TiB", " PiB"]);
const time = (seconds) => (seconds >= 1 ? `${seconds.toPrecision(3)} s`
  : seconds >= 1e-3 ? `${(1e3 * seconds).toPrecision(3)} ms` : `${(1e6 * seconds).toPrecision(3)} µs`);
const full = (count) => count.toLocaleString("en-US");
const number = (value) => String(Number(value.toPrecision(3)));

const MEASURES = [
  { key: "parameters", label: "Parameters", text: short },
  { key: "multiply_adds", label: "Mult-adds", text: short },
  { key: "activations", label: "Memory", text: size },
];
if (data.measured) MEASURES.push({ key: "seconds", label: "Time", text: time });

const FAMILIES = [
  [/Norm/, "norm"],
  [/LSTM|GRU|RNN|Attention|Transformer/, "recurrent"],
  [/Embedding/, "lookup"],
  [/ReLU|ELU|GELU|SiLU|Sigmoid|Tanh|Softmax|Softplus|Mish|Hardswish|Hardtanh|Threshold|GLU/, "nonlinear"],
  [/Linear|Conv/, "weight"],
  [/Pool|Flatten|Dropout|Identity|Pad|Upsample|Shuffle|Fold/, "form"],
];

// The family of a class: what colour it has.
function hue(module) {
  if (module.children.length) return "var(--group)";
  const family = FAMILIES.find(([pattern]) => pattern.test(module.kind));
  return `var(--${family ? family[1] : module.own ? "weight" : "form"})`;
}

const SEVERITIES = ["error", "warning", "info"];

// The worst severity at a module and below it, or null.
const worst = (() => {
  const known = new Map();
  return function worstOf(index) {
    if (!known.has(index)) {
      const found = modules[index].findings.map((finding) => finding.severity);
      for (const child of childModules(index)) found.push(worstOf(child));
      known.set(index, SEVERITIES.find((severity) => found.includes(severity)) || null);
    }
    return known.get(index);
  };
})();

function childModules(index) {
  return modules[index].children.flatMap(([child, fold]) => (child < 0 ? folds[fold].modules : [child]));
}

// How wide a text is in the picture, in its units.
const widthOf = (() => {
  const pen = document.createElement("canvas").getContext("2d");
  const family = getComputedStyle(document.body).fontFamily;
  const known = new Map();
  return (text, style) => {
    const key = `${style} ${text}`;
    if (!known.has(key)) {
      pen.font = `${style} ${family}`;
      known.set(key, pen.measureText(text).width);
    }
    return known.get(key);
  };
})();
const TITLE = "620 13px";
const SMALL = "400 11px";

// The longest start of a text that fits, with an ellipsis where something is cut.
function cut(text, room, style) {
  if (widthOf(text, style) <= room) return text;
  let [least, most] = [0, text.length - 1];
  while (least < most) {
    const middle = Math.ceil((least + most) / 2);
    if (widthOf(`${text.slice(0, middle)}…`, style) <= room) least = middle;
    else most = middle - 1;
  }
  return `${text.slice(0, least)}…`;
}
