"use strict";
const $ = id => document.getElementById(id);
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
const ms = ns => ns == null ? "-" : ns >= 1e6 ? (ns / 1e6).toFixed(2) + " ms" : (ns / 1e3).toFixed(2) + " us";
const mb = bytes => bytes == null ? "-" : (bytes / 1e6).toFixed(bytes < 1e5 ? 3 : 1);
const TABS = ["levels", "passes", "kernels", "memory"];
let D, levels, kernelOf, state;

async function unpack() {
  const packed = Uint8Array.from(atob($("data").textContent), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

/* ---- what belongs to what ---- */

function index() {
  levels = [];
  for (const [stage, , , parts] of D.steps) {
    if (!levels.length || levels[levels.length - 1].name !== stage) levels.push({name: stage});
    levels[levels.length - 1].parts = parts;
  }
  kernelOf = new Map();
  for (const launch of D.launches) {
    if (!kernelOf.has(launch.kernel)) kernelOf.set(launch.kernel, []);
    kernelOf.get(launch.kernel).push(D.sets[launch.layers]);
  }
  for (const chunk of D.chunks) {
    chunk.sets = new Set();
    for (const [set] of chunk.l) for (const layer of D.sets[set]) chunk.sets.add(layer);
  }
}

/* The layers whose lines stand for `layer` in the function `name`: in a kernel that several layers share, the lines name
 * those of its first launch; the others correspond by their place. */
function standIns(name, layer) {
  const calls = kernelOf.get(name.replace(/\.body$/, ""));
  const found = new Set([layer]);
  if (!calls) return found;
  for (const call of calls) {
    const place = call.indexOf(layer);
    if (place >= 0 && call.length === calls[0].length) found.add(calls[0][place]);
  }
  return found;
}

function holds(name, chunk, layer) {
  const calls = kernelOf.get(name.replace(/\.body$/, ""));
  return calls ? calls.some(call => call.includes(layer)) : chunk.sets.has(layer);
}

/* ---- text ---- */

const BLOCK = 100;
function listing(name, chunk) {
  const lines = chunk.t.split("\n"), sets = [];
  for (const [set, count] of chunk.l) for (let i = 0; i < count; i++) sets.push(set);
  const shared = state.layer == null ? null : standIns(name, state.layer);
  const pre = make("pre");
  for (let start = 0; start < lines.length; start += BLOCK) {
    const block = make("div", {className: "block"});
    for (let i = start; i < Math.min(start + BLOCK, lines.length); i++) {
      const line = make("span", {className: "l", textContent: lines[i]});
      line.dataset.s = sets[i] || 0;
      if (shared && D.sets[sets[i] || 0].some(layer => shared.has(layer))) line.classList.add("on");
      block.append(line);
    }
    pre.append(block);
  }
  pre.addEventListener("click", event => {
    const line = event.target.closest(".l");
    if (!line || getSelection().toString()) return;
    const own = D.sets[+line.dataset.s], calls = kernelOf.get(name.replace(/\.body$/, "")) || [];
    const all = [...new Set([...own, ...calls.flat()])];
    if (own.length || all.length) choose(own.length ? own[0] : all[0], all);
  });
  return pre;
}

/* A card that makes its text when it is first opened. */
function card(name, note, holdsLayer, content) {
  const details = make("details"), summary = make("summary", {}, name, " ", make("small", {textContent: note}));
  if (holdsLayer) summary.classList.add("holds");
  details.append(summary);
  details.dataset.part = name;
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(content());
  });
  return details;
}

/* ---- levels side by side ---- */

function showLevels(view) {
  const columns = make("div", {className: "columns"});
  state.columns.forEach((level, number) => columns.append(column(level, number)));
  view.append(columns);
  for (const node of columns.children) reveal(node);
}

function column(level, number) {
  const select = make("select", {ariaLabel: "level"});
  levels.forEach((each, i) => select.append(make("option", {value: i, textContent: each.name, selected: i === level})));
  select.addEventListener("change", () => { state.columns[number] = +select.value; show(); });
  const more = make("button", {textContent: "+", title: "one more column"});
  more.addEventListener("click", () => { state.columns.splice(number + 1, 0, Math.min(level + 1, levels.length - 1)); show(); });
  const less = make("button", {textContent: "-", title: "close this column", disabled: state.columns.length === 1});
  less.addEventListener("click", () => { state.columns.splice(number, 1); show(); });
  const node = make("div", {className: "column"}, make("div", {className: "bar"}, select, more, less));
  node.dataset.level = levels[level].name;
  for (const [name, at] of levels[level].parts) {
    const chunk = D.chunks[at], lines = chunk.l.reduce((sum, [, count]) => sum + count, 0);
    const calls = kernelOf.get(name.replace(/\.body$/, ""));
    const note = `${lines} line${lines === 1 ? "" : "s"}` + (calls ? `, ${calls.length} launch${calls.length === 1 ? "" : "es"}` : "");
    const held = state.layer != null && holds(name, chunk, state.layer);
    node.append(card(name, note, held, () => listing(name, chunk)));
  }
  if (state.layer != null && !node.querySelector("summary.holds"))
    node.firstChild.append(make("span", {className: "note", textContent: "nothing of this layer is left here"}));
  return node;
}

/* Open what holds the selected layer, all if it is little, and bring its first line into sight. */
function reveal(column) {
  const cards = [...column.querySelectorAll("details")];
  const wanted = state.layer == null ? cards.filter(c => c.dataset.part === "main") : cards.filter(c => c.firstChild.classList.contains("holds"));
  for (const each of wanted) {
    each.open = true;
    if (each.children.length === 1) each.dispatchEvent(new Event("toggle"));
  }
  const line = column.querySelector(".l.on") || (state.layer != null && column.querySelector("summary.holds"));
  // Not scrollIntoView, which would scroll the columns sideways too.
  if (line) requestAnimationFrame(() => {
    column.scrollTop += line.getBoundingClientRect().top - column.getBoundingClientRect().top - column.clientHeight / 3;
  });
}

/* ---- passes ---- */

function showPasses(view) {
  let stage = null;
  D.steps.forEach(([name, pass, seconds, parts], i) => {
    if (name === "ll" || name === "asm") return;
    if (name !== stage) view.append(make("h2", {textContent: stage = name}));
    const before = new Map(i ? D.steps[i - 1][3] : []), after = new Map(parts);
    const changed = [...new Set([...before.keys(), ...after.keys()])].filter(part => before.get(part) !== after.get(part));
    const time = `${(seconds * 1e3).toFixed(1)} ms`, said = D.remarks.filter(([step]) => step === i);
    if (!i || !changed.length && !said.length) {
      view.append(make("div", {className: "quiet", textContent: `${pass}  ${time}${i ? "  changed nothing" : ""}`}));
      return;
    }
    const remarked = said.length ? `, ${said.length} remark${said.length === 1 ? "" : "s"}` : "";
    view.append(card(pass, `${time}, changed ${changed.length} of ${after.size} functions${remarked}`, false, () => {
      const box = make("div", {}, ...said.map(remarkLine));
      for (const part of changed) {
        const old = D.chunks[before.get(part)], now = D.chunks[after.get(part)];
        const what = !old ? "new" : !now ? "gone" : "changed";
        box.append(card(part, what, false, () => difference(part, old, now)));
      }
      if (changed.length <= 3) for (const each of box.querySelectorAll("details")) { each.open = true; each.dispatchEvent(new Event("toggle")); }
      return box;
    }));
  });
}

/* A remark of a pass; a click selects the layers that it is about. */
function remarkLine([step, kind, text, set]) {
  const line = make("div", {className: `remark ${kind}`}, make("b", {textContent: `${D.steps[step][1].split("{")[0]}: ${kind}`}), ` ${text}`);
  const own = D.sets[set];
  if (own.length) {
    line.append(make("small", {textContent: ` ${names(set)}`}));
    line.addEventListener("click", () => choose(own[0], own));
  }
  return line;
}

const CONTEXT = 3;
function difference(name, old, now) {
  if (!old || !now) return listing(name, old || now);
  const edits = diffLines(old.t.split("\n"), now.t.split("\n")), pre = make("pre");
  const near = new Uint8Array(edits.length);
  edits.forEach(([sign], i) => {
    if (sign !== " ") for (let k = Math.max(0, i - CONTEXT); k <= Math.min(edits.length - 1, i + CONTEXT); k++) near[k] = 1;
  });
  let block = null, skipped = 0, count = 0;
  const put = node => {
    if (count++ % BLOCK === 0) pre.append(block = make("div", {className: "block"}));
    block.append(node);
  };
  const gap = () => { if (skipped) put(make("span", {className: "l gap", textContent: `... ${skipped} lines`})); skipped = 0; };
  edits.forEach(([sign, text], i) => {
    if (!near[i]) { skipped++; return; }
    gap();
    put(make("span", {className: "l " + ({"+": "add", "-": "del"}[sign] || ""), textContent: `${sign} ${text}`}));
  });
  gap();
  if (!edits.some(([sign]) => sign !== " ")) put(make("span", {className: "l gap", textContent: "values are numbered anew"}));
  return pre;
}

/* ---- kernels ---- */

const COLUMNS = [
  ["#", (l, i) => i, v => v], ["kernel", l => l.kernel, v => v, "t"], ["layers", l => names(l.layers), v => v || "-", "t"],
  ["tiles", l => l.tiles, v => v ?? "-"], ["modelled", l => l.modelled_ns, ms], ["measured", l => l.measured_ns, ms],
  ["share", l => D.measured && l.measured_ns / D.measured.run_ns, v => v ? (v * 100).toFixed(1) + "%" : "-"],
  ["MFLOP", l => l.operations, v => v == null ? "-" : (v / 1e6).toFixed(2)],
  ["GFLOP/s", l => l.measured_ns ? l.operations / l.measured_ns : null, v => v == null ? "-" : v.toFixed(1)],
  ["MB", l => l.bytes, mb],
];
const names = set => D.sets[set].map(layer => D.layers[layer][0]).join(" + ");

function showKernels(view) {
  const head = make("tr"), body = make("tbody");
  const run = D.measured ? `run: ${ms(D.measured.run_ns)}, ${D.measured.threads} thread(s), fastest of ${D.measured.runs}; ` : "not run (--run times kernels); ";
  view.append(make("p", {className: "note", textContent: `${run}modelled: the compiler's estimate for one thread; operations and bytes of one launch`}));
  COLUMNS.forEach(([title, , , kind], c) => {
    const cell = make("th", {textContent: title, className: kind || ""});
    cell.addEventListener("click", () => { state.sort = state.sort === c + 1 ? -(c + 1) : c + 1; show(); });
    head.append(cell);
  });
  const rows = D.launches.map((launch, i) => COLUMNS.map(([, get]) => get(launch, i)));
  const order = rows.map((_, i) => i), by = Math.abs(state.sort) - 1;
  if (by >= 0) order.sort((a, b) => (rows[a][by] > rows[b][by] ? -1 : 1) * Math.sign(state.sort));
  for (const i of order) {
    const row = make("tr");
    rows[i].forEach((value, c) => row.append(make("td", {textContent: COLUMNS[c][2](value), className: COLUMNS[c][3] || ""})));
    const own = D.sets[D.launches[i].layers];
    row.classList.toggle("on", state.layer != null && own.includes(state.layer));
    row.addEventListener("click", () => { if (own.length) { state.tab = "levels"; choose(own[0], own); } });
    body.append(row);
  }
  view.append(make("table", {}, make("thead", {}, head), body));
}

/* ---- memory ---- */

function showMemory(view) {
  const plan = D.memory;
  if (!plan) { view.append(make("p", {className: "note", textContent: "no arena: nothing is kept between launches"})); return; }
  const live = new Float64Array(plan.launches + 1);
  for (const b of plan.buffers) for (let t = b.first; t <= b.last; t++) live[t] += b.size;
  const most = Math.max(0, ...live);
  view.append(make("p", {className: "note", textContent:
    `arena ${mb(plan.bytes)} MB, at most ${mb(most)} MB in use at once, ${plan.buffers.length} buffers` +
    (plan.unknown ? `, ${plan.unknown} more at places that follow from run-time extents` : "") +
    "; across: launches in order, upwards: bytes of the arena"}));
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const height = Math.max(...plan.buffers.map(b => b.offset + b.size), 1);
  svg.setAttribute("viewBox", `0 0 ${plan.launches} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.style.height = "70vh";
  plan.buffers.forEach((b, i) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect"), own = D.sets[b.layers];
    const place = {x: b.first, width: b.last - b.first + 1, y: 100 - 100 * (b.offset + b.size) / height, height: 100 * b.size / height};
    for (const [key, value] of Object.entries(place)) rect.setAttribute(key, value);
    rect.setAttribute("fill", `hsl(${(i * 137) % 360} 55% 60%)`);
    if (state.layer != null && own.includes(state.layer)) rect.classList.add("on");
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${b.name}: ${mb(b.size)} MB at ${b.offset}, launches ${b.first} to ${b.last}\n${names(b.layers)}`;
    rect.append(title);
    rect.addEventListener("click", () => own.length && choose(own[0], own));
    svg.append(rect);
  });
  view.append(svg);
}

/* ---- frame ---- */

const SHOW = {levels: showLevels, passes: showPasses, kernels: showKernels, memory: showMemory};

function show() {
  const view = $("view");
  view.replaceChildren();
  SHOW[state.tab](view);
  for (const tab of $("tabs").children) tab.ariaSelected = String(tab.dataset.tab === state.tab);
  for (const layer of $("layers").children) layer.ariaSelected = String(+layer.dataset.layer === state.layer);
  $("layers").querySelector('[aria-selected="true"]')?.scrollIntoView({block: "nearest"});
  const footer = $("selected");
  footer.hidden = state.layer == null;
  footer.replaceChildren();
  for (const layer of state.layer == null ? [] : [...new Set([state.layer, ...state.others])]) {
    const button = make("button", {textContent: D.layers[layer][0]});
    button.ariaSelected = String(layer === state.layer);
    button.addEventListener("click", () => choose(layer, state.others));
    footer.append(button);
  }
  for (const remark of D.remarks) if (state.layer != null && D.sets[remark[3]].includes(state.layer)) footer.append(remarkLine(remark));
  if (state.layer != null) {
    const off = make("button", {textContent: "clear", title: "select nothing"});
    off.addEventListener("click", () => { state.layer = null; state.others = []; show(); });
    footer.append(off);
  }
}

/* Select a layer; `others` came with it and are offered. */
function choose(layer, others = []) {
  state.layer = layer;
  state.others = others;
  if (state.tab === "passes") state.tab = "levels";
  show();
}

function frame() {
  $("title").textContent = D.title;
  const {target, level, threads, fp} = D.options;
  $("facts").textContent = `${target}, ${level}, fp ${fp}, ${threads} thread${threads === 1 ? "" : "s"}` +
    (D.measured ? `, ${ms(D.measured.run_ns)} a run` : "");
  for (const tab of TABS) {
    const button = make("button", {textContent: tab});
    button.dataset.tab = tab;
    button.addEventListener("click", () => { state.tab = tab; show(); });
    $("tabs").append(button);
  }
  const time = new Map();
  for (const launch of D.launches) if (launch.measured_ns != null) {
    const own = D.sets[launch.layers];
    if (own.length) time.set(own[0], (time.get(own[0]) || 0) + launch.measured_ns);
  }
  const computed = new Set(D.launches.flatMap(launch => D.sets[launch.layers]));
  const order = D.layers.map((_, i) => i).sort((a, b) => computed.has(b) - computed.has(a) || a - b);
  for (const i of order) {
    const [name, operator, type] = D.layers[i];
    const note = operator + (time.has(i) ? `, ${ms(time.get(i))}` : computed.has(i) ? "" : ", no kernel of its own");
    const item = make("li", {className: computed.has(i) ? "layer" : "layer gone", title: type}, name, make("small", {textContent: note}));
    item.dataset.layer = i;
    item.addEventListener("click", () => choose(i));
    $("layers").append(item);
  }
  $("search").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase();
    for (const item of $("layers").children) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  });
}

(async () => {
  D = await unpack();
  index();
  const at = name => Math.max(0, levels.findIndex(level => level.name === name));
  state = {tab: "levels", layer: null, others: [], columns: [at("graph"), at("kernels")], sort: 0};
  frame();
  show();
  document.body.dataset.ready = Math.round(performance.now());
})().catch(error => { $("view").textContent = `this page cannot be shown: ${error}`; throw error; });
