// The page's script: sorts and saves tables, draws the charts. It asks nothing of the network, and puts in text as text only.
"use strict";
(() => {
  const { report: DATA, tables: RAW } = JSON.parse(document.getElementById("data").textContent);
  const DASH = "–";
  const SMALL = "the sample is too small for this figure";
  const TICK = DATA.tick ?? 1;
  const byId = (id) => document.getElementById(id);

  // --- numbers, as src/text.rs writes them ------------------------------------------------------------------------------

  /** Like Rust's `{:.digits$}`: a tie goes to the even digit. */
  const fixed = (value, digits) => {
    const text = value.toFixed(digits);
    const exact = Math.abs(value).toFixed(Math.min(100, digits + 40));
    const rest = exact.slice(exact.indexOf(".") + 1 + digits);
    if (!/^50*$/.test(rest)) return text;
    const down = exact.slice(0, exact.indexOf(".") + (digits ? digits + 1 : 0));
    return Number(down.at(-1)) % 2 ? text : (value < 0 ? "-" : "") + down;
  };
  const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, ",");
  const trimmed = (value, digits) => {
    const text = fixed(value, digits);
    return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  };
  /** A rate with three digits that mean something. */
  const threeDigits = (rate) => {
    if (rate < 1) return 0;
    const scale = 10 ** Math.max(0, Math.floor(Math.log10(rate)) - 2);
    return Math.round(rate / scale) * scale;
  };
  const unitOf = (length) => (length >= 1e9 ? [1e9, "s"] : length >= 1e6 ? [1e6, "ms"] : length >= 1e4 ? [1e3, "us"] : [1, "ns"]);
  const duration = (ns, finest = TICK) => {
    const [scale, unit] = unitOf(Math.abs(ns));
    const value = ns / scale;
    const most = 2 - Math.floor(Math.log10(Math.max(1, Math.abs(value))));
    const least = -Math.floor(Math.log10(finest / scale));
    return `${fixed(value, Math.max(0, Math.min(most, least)))} ${unit}`;
  };
  const wholeTicks = (ns) => {
    const ticks = Math.round(ns / TICK) * TICK;
    return ticks === 0 ? `<${trimmed(TICK, 1)} ns` : duration(ticks);
  };
  const meanText = (mean, interval) => {
    const [scale, unit, finest] = Math.abs(mean) >= 1e6 ? [1e6, "ms", 9] : Math.abs(mean) >= 1e4 ? [1e3, "us", 6] : [1, "ns", 3];
    const half = Math.max(interval, 0.001) / scale;
    const digits = Math.min(finest, Math.max(0, 1 - Math.floor(Math.log10(half))));
    return `${fixed(mean / scale, digits)} ± ${fixed(half, digits)} ${unit}`;
  };
  /** A label of an axis: no more digits than it needs. */
  const tickText = (ns) => {
    if (ns === 0) return "0";
    const [scale, unit] = Math.abs(ns) >= 1e9 ? [1e9, "s"] : Math.abs(ns) >= 1e6 ? [1e6, "ms"] : Math.abs(ns) >= 1e3 ? [1e3, "us"] : [1, "ns"];
    return `${Number((ns / scale).toPrecision(3))} ${unit}`;
  };

  // --- elements ---------------------------------------------------------------------------------------------------------

  const SVG = "http://www.w3.org/2000/svg";
  const put = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const el = (tag, attributes = {}, ...children) => put(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
  const select = (label, options, chosen, change) => {
    const box = el("select", {});
    options.forEach(([value, text]) => box.append(el("option", { value }, text)));
    box.value = String(chosen);
    box.addEventListener("change", () => change(box.value));
    return el("label", {}, label, box);
  };
  const button = (text, press, attributes = {}) => {
    const node = el("button", { type: "button", ...attributes }, text);
    node.addEventListener("click", press);
    return node;
  };
  document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  const show = (id) => byId(id).removeAttribute("hidden");
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // --- tables -----------------------------------------------------------------------------------------------------------

  /** A column of all rows. */
  const decode = ({ v, r, d }) => {
    let values = v;
    if (r) {
      values = [];
      for (let index = 0; index < r.length; index += 2) for (let times = r[index + 1]; times > 0; times--) values.push(r[index]);
    }
    return d ? values.map((value) => (typeof value === "number" ? d[value] : value)) : values;
  };
  const TABLES = {};
  for (const [id, table] of Object.entries(RAW)) {
    TABLES[id] = { ...table, id, data: table.data.map(decode) };
    TABLES[id].of = Object.fromEntries(table.columns.map((column, index) => [column.key, TABLES[id].data[index]]));
  }
  const isText = (kind) => kind === "text" || kind === "flag";
  const cellText = (table, column, row) => {
    const value = table.data[column][row];
    const { kind, key } = table.columns[column];
    if (value === null || value === undefined) return DASH;
    if (kind === "flag") return value ? "yes" : "no";
    if (typeof value !== "number") return String(value);
    if (kind === "count") return Number.isInteger(value) ? grouped(value) : trimmed(value, 3);
    if (kind === "number") return trimmed(value, 3);
    if (kind === "rate") return grouped(threeDigits(value));
    if (kind === "length" || kind === "quantile") return wholeTicks(value);
    if (kind === "time") return value === 0 ? "0 ns" : duration(value);
    if (kind === "mean") {
      const interval = table.of[key.replace("mean_ns", "mean_ci_ns")]?.[row];
      return interval === null || interval === undefined ? duration(value) : meanText(value, interval);
    }
    return String(value);
  };
  /** Row numbers in order; what has no value stands last either way. */
  const sorted = (table, column, direction) => {
    const values = table.data[column];
    const order = Array.from({ length: table.rows }, (_, index) => index);
    if (!values) return order;
    if (!isText(table.columns[column].kind) && values.every((value) => typeof value !== "string")) {
      const keys = Float64Array.from(values, (value) => value ?? direction * Infinity);
      return order.sort((a, b) => direction * (keys[a] - keys[b]) || a - b);
    }
    const collator = new Intl.Collator("en", { numeric: true });
    return order.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      const by = typeof x === "string" || typeof y === "string" ? collator.compare(String(x), String(y)) : x - y;
      return direction * by || a - b;
    });
  };
  const STEP = 100;
  const fillRows = (table) => {
    const columns = table.columns.map((column, index) => index).filter((index) => !table.columns[index].hidden);
    const body = el("tbody");
    for (const row of table.order.slice(0, table.shown)) {
      const line = el("tr");
      for (const column of columns) {
        const { kind } = table.columns[column];
        const text = cellText(table, column, row);
        const title = text === DASH ? (kind === "quantile" ? SMALL : null) : text.length > 40 ? text : null;
        line.append(el("td", { class: isText(kind) ? null : "number", title }, text));
      }
      body.append(line);
    }
    table.node.tBodies[0].replaceWith(body);
    if (table.more) {
      table.more.textContent = `${grouped(Math.min(table.shown, table.rows))} of ${grouped(table.rows)} rows`;
      if (table.shown < table.rows) {
        table.more.append(button(`Show ${STEP} more`, () => {
          table.shown += STEP;
          fillRows(table);
        }));
      }
    }
  };
  const sortBy = (table, column) => {
    const head = table.node.tHead.querySelectorAll("th");
    const down = table.sort === column ? -table.direction : isText(table.columns[column].kind) || table.columns[column].kind === "core" ? 1 : -1;
    [table.sort, table.direction] = [column, down];
    head.forEach((th) => {
      th.removeAttribute("aria-sort");
      if (Number(th.dataset.column) === column) th.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    });
    table.order = sorted(table, column, down);
    fillRows(table);
  };
  /** RFC 4180: quoted where it must be, quotes doubled, lines end in CR LF. What has no value is empty. */
  const csvCell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (table) => {
    const lines = [table.columns.map((column) => csvCell(column.key)).join(",")];
    const value = (column, row) => {
      const value = table.data[column][row];
      return table.columns[column].kind === "flag" && value !== null ? Boolean(value) : value;
    };
    for (const row of table.order) lines.push(table.columns.map((_, column) => csvCell(value(column, row))).join(","));
    return lines.join("\r\n") + "\r\n";
  };
  const save = (name, text) => {
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    el("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  for (const table of Object.values(TABLES)) {
    table.node = byId(table.id);
    if (!table.node) continue;
    table.shown = STEP;
    table.direction = -1;
    table.more = byId(`${table.id}-figure`).querySelector(".more");
    table.order = sorted(table, table.sort ?? -1, -1);
    table.node.tHead.querySelectorAll("th").forEach((th) => {
      const name = th.textContent;
      th.replaceChildren(button(name, () => sortBy(table, Number(th.dataset.column)), { title: `Sort by ${name}` }));
    });
    byId(`${table.id}-figure`).querySelector("figcaption").append(
      button("Save as CSV", () => save(`${table.id}.csv`, csv(table)), { class: "save", "aria-label": `Save as CSV: ${table.title}` }),
    );
    fillRows(table);
  }

  // --- colours ----------------------------------------------------------------------------------------------------------

  // ColorBrewer's YlGnBu in nine classes (Cynthia Brewer, colorbrewer2.org): sequential, safe for colour-blind readers, and darker
  // with every step, so that it is told apart on paper without colour.
  const RAMP = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"]
    .map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const color = (share) => {
    const place = Math.max(0, Math.min(1, share)) * (RAMP.length - 1);
    const at = Math.min(RAMP.length - 2, Math.floor(place));
    return RAMP[at].map((low, index) => Math.round(low + (RAMP[at + 1][index] - low) * (place - at)));
  };
  const css = (rgb) => `rgb(${rgb.join(",")})`;
  /** Black or white, whichever is further from it (WCAG 2.2, relative luminance). */
  const inkOn = (rgb) => {
    const [r, g, b] = rgb.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  };
  // Paul Tol's "bright" scheme (Tol, "Colour Schemes", SRON/EPS/TN/09-002): names, not amounts.
  const NAMES = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb"];

  // --- what is chosen ---------------------------------------------------------------------------------------------------

  const suspect = DATA.suspects.find((one) => one.core !== null || one.to !== null) ?? {};
  const chosen = { group: 0, metric: "p50_ns", order: "core", from: null, to: null, core: suspect.core ?? suspect.to ?? null };
  const METRICS = [["p50_ns", "median"], ["p90_ns", "p90"], ["p99_ns", "p99"], ["max_ns", "max"], ["mean_ns", "mean"], ["min_ns", "min"], ["lost", "lost"]];
  const metricName = () => METRICS.find(([key]) => key === chosen.metric)[1];
  const metricText = (value) =>
    value === null || value === undefined ? DASH : chosen.metric === "lost" ? grouped(value) : wholeTicks(value);

  // --- heatmap ----------------------------------------------------------------------------------------------------------

  /** Above this, cells are drawn: a page of more elements is slow. */
  const MOST_CELLS = 64;
  /** Up to so many cores, cells have room for numbers. */
  const MOST_NUMBERS = 16;
  const pairs = TABLES.pairs;
  const groups = [];
  let canvasView = null;
  if (pairs) {
    const parts = ["phase", "kind", "state", "delivery"].filter((key) => pairs.of[key]);
    const seen = new Map();
    const columns = parts.map((key) => pairs.of[key]);
    let last = 0;
    let name = "";
    for (let row = 0; row < pairs.rows; row++) {
      // Rows of one group mostly stand together.
      if (!row || columns.some((column) => column[row] !== column[last])) name = columns.map((column) => column[row] ?? DASH).join("\u0000");
      last = row;
      if (!seen.has(name)) {
        seen.set(name, groups.length);
        groups.push({ rows: new Map(), parts: Object.fromEntries(parts.map((key) => [key, pairs.of[key][row]])) });
      }
      const group = groups[seen.get(name)];
      group.rows.set(pairs.of.from[row] * 65536 + pairs.of.to[row], row);
    }
    for (const group of groups) {
      const { phase, kind, state, delivery } = group.parts;
      group.name = [phase, kind, state && state !== "unknown" ? `receiver in ${state}` : null, delivery ? `came as ${delivery.replace("_", "-")}` : null]
        .filter(Boolean).join(", ");
      const cores = new Set();
      for (const row of group.rows.values()) cores.add(pairs.of.from[row]).add(pairs.of.to[row]);
      group.cores = [...cores].sort((a, b) => a - b);
    }
    const available = METRICS.filter(([key]) => pairs.of[key]?.some((value) => value !== null));
    if (!available.some(([key]) => key === chosen.metric)) chosen.metric = available[0]?.[0] ?? "max_ns";
    const clusters = new Set(Object.values(DATA.clusters));
    const controls = byId("heatmap-controls");
    controls.append(
      select("Figure", available, chosen.metric, (value) => { chosen.metric = value; drawHeatmap(); }),
      select("Phase, kind, state", groups.map((group, index) => [index, group.name]), 0, (value) => { chosen.group = Number(value); follow(); choose(chosen.from, chosen.to); drawHeatmap(); }),
    );
    if (clusters.size > 1) {
      controls.append(select("Order", [["core", "by core"], ["cluster", "by cluster"]], "core", (value) => { chosen.order = value; drawHeatmap(); }));
    }
    show("heatmap-section");
  }
  const pairRow = (from, to) => groups[chosen.group]?.rows.get(from * 65536 + to);
  const pairValue = (from, to) => {
    const row = pairRow(from, to);
    return row === undefined ? undefined : pairs.of[chosen.metric]?.[row];
  };
  const ordered = () => {
    const { cores } = groups[chosen.group];
    const cluster = (core) => DATA.clusters[core] ?? 0;
    return chosen.order === "cluster" ? [...cores].sort((a, b) => cluster(a) - cluster(b) || a - b) : cores;
  };
  /** Where a value lies in the colours: by its logarithm where the values span more than a factor of eight. */
  const scaleOf = () => {
    let [low, high] = [Infinity, -Infinity];
    for (const row of groups[chosen.group].rows.values()) {
      const value = pairs.of[chosen.metric]?.[row];
      if (value === null || value === undefined) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) return null;
    if (chosen.metric === "lost") low = 0;
    const log = low > 0 && high / low > 8;
    const share = (value) => (high === low ? 0.25 : log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const value = (share) => (log ? low * (high / low) ** share : low + (high - low) * share);
    return { low, high, log, share, value };
  };
  /** The unit of a whole map, so that cells can be compared by eye: as the matrices of the report for a terminal have it. */
  const mapUnit = ({ high }) => (high >= 1e7 ? [1e6, "ms"] : high >= 1e4 ? [1e3, "us"] : [1, "ns"]);
  const cellNumber = (value, scale) => {
    if (chosen.metric === "lost") return grouped(value);
    const [size] = mapUnit(scale);
    const number = value / size;
    const digits = Math.max(0, Math.min(number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2, -Math.floor(Math.log10(TICK / size))));
    const text = fixed(number, digits);
    return value > 0 && Number(text) === 0 ? `<${digits ? fixed(10 ** -digits, digits) : 1}` : text;
  };
  const readout = () => {
    if (!pairs) return;
    const { from, to } = chosen;
    if (from === null) return byId("heatmap-readout").replaceChildren();
    const row = pairRow(from, to);
    if (row === undefined) {
      byId("heatmap-readout").textContent = `${from} to ${to}: not measured here`;
      return;
    }
    const figure = ([key, name]) => (pairs.of[key] ? `${name} ${pairs.of[key][row] === null ? DASH : wholeTicks(pairs.of[key][row])}` : null);
    const figures = [["min_ns", "min"], ["p50_ns", "median"], ["p90_ns", "p90"], ["p99_ns", "p99"], ["max_ns", "max"]].map(figure).filter(Boolean);
    const counts = ["sent", "lost"].filter((key) => pairs.of[key]).map((key) => `${grouped(pairs.of[key][row])} ${key}`);
    byId("heatmap-readout").replaceChildren(el("strong", {}, `${from} to ${to}`), `: ${[...figures, ...counts].join(", ")}`);
    if (figures.some((text) => text.endsWith(DASH))) byId("heatmap-readout").title = SMALL;
    else byId("heatmap-readout").removeAttribute("title");
  };
  /** Takes a pair; the other charts follow. */
  const choose = (from, to) => {
    [chosen.from, chosen.to] = [from, to];
    if (to !== null && to !== undefined && to !== chosen.core) {
      chosen.core = to;
      drawSeries();
    }
    readout();
    drawSpread();
  };
  const move = (event, cores, there) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-8, 0], PageDown: [8, 0] };
    const at = [cores.indexOf(chosen.from), cores.indexOf(chosen.to)].map((index) => Math.max(0, index));
    let next = null;
    if (steps[event.key]) next = at.map((index, axis) => Math.max(0, Math.min(cores.length - 1, index + steps[event.key][axis])));
    else if (event.key === "Home") next = [at[0], 0];
    else if (event.key === "End") next = [at[0], cores.length - 1];
    if (!next) return;
    event.preventDefault();
    choose(cores[next[0]], cores[next[1]]);
    there(next);
  };
  const legend = (scale) => {
    const box = byId("heatmap-legend");
    box.replaceChildren();
    if (!scale) return box.append(`${metricName()}: ${SMALL}`);
    const text = (value) => (chosen.metric === "lost" ? grouped(Math.round(value)) : wholeTicks(value));
    const unit = chosen.metric === "lost" ? "IPIs" : mapUnit(scale)[1];
    box.append(el("span", {}, groups[chosen.group].cores.length > MOST_NUMBERS ? `${metricName()}:` : `${metricName()}; cells in ${unit}:`));
    if (scale.low === scale.high) {
      box.append(el("span", { class: "ramp" }, el("i", { style: `background:${css(color(0.25))}` })), el("span", {}, `all ${text(scale.low)}`));
    } else {
      const ramp = el("span", { class: "ramp" });
      for (let step = 0; step < 9; step++) {
        const title = text(scale.value(step / 8));
        ramp.append(el("i", { style: `background:${css(color(step / 8))}`, title }));
      }
      box.append(el("span", {}, text(scale.low)), ramp, el("span", {}, text(scale.high)));
      if (scale.log) box.append(el("span", {}, `(logarithmic; middle ${text(scale.value(0.5))})`));
    }
    box.append(el("i", { class: "empty" }), el("span", {}, "not measured, or (–) too few for this figure"));
  };
  const gridMap = (cores, scale, box) => {
    const cluster = (index) => (chosen.order === "cluster" ? DATA.clusters[cores[index]] ?? 0 : 0);
    const edge = (index) => index > 0 && cluster(index) !== cluster(index - 1);
    const room = Math.max(280, box.clientWidth) - 34;
    const numbers = cores.length <= MOST_NUMBERS;
    const width = Math.max(numbers ? 38 : 9, Math.min(numbers ? 64 : 24, Math.floor(room / cores.length)));
    const height = numbers ? Math.max(26, Math.min(34, width)) : width;
    const every = Math.max(1, Math.ceil(22 / width));
    const table = el("table", { class: "heat", role: "grid", "aria-label": `${metricName()} by sender (rows) and receiver (columns): ${groups[chosen.group].name}`, style: `width:${34 + width * cores.length}px` });
    const head = el("tr", {}, el("td", { style: "width:34px;cursor:default" }));
    cores.forEach((core, index) => head.append(el("th", { scope: "col", style: `width:${width}px` }, index % every ? "" : String(core))));
    const body = el("tbody");
    const cells = cores.map((from, row) => {
      const line = el("tr", { class: edge(row) ? "edge" : null }, el("th", { scope: "row" }, row % every ? "" : String(from)));
      body.append(line);
      return cores.map((to, column) => {
        const value = pairValue(from, to);
        const cell = el("td", { role: "gridcell", tabindex: -1, "data-from": from, "data-to": to });
        const name = `${from} to ${to}`;
        if (value === undefined || value === null) {
          cell.className = "none";
          if (numbers && value === null) cell.textContent = DASH;
          cell.title = value === null ? `${name}: ${SMALL}` : `${name}: not measured`;
        } else {
          const rgb = color(scale.share(value));
          cell.style.background = css(rgb);
          cell.style.color = inkOn(rgb);
          if (numbers) cell.textContent = cellNumber(value, scale);
          cell.title = `${name}: ${metricName()} ${metricText(value)}`;
        }
        cell.setAttribute("aria-label", cell.title);
        cell.style.height = `${height}px`;
        if (edge(column)) cell.classList.add("edge");
        line.append(cell);
        return cell;
      });
    });
    const mark = (focus) => {
      table.querySelectorAll("td.chosen").forEach((cell) => {
        cell.classList.remove("chosen");
        cell.tabIndex = -1;
        cell.removeAttribute("aria-selected");
      });
      const cell = cells[cores.indexOf(chosen.from)]?.[cores.indexOf(chosen.to)] ?? cells[0][0];
      cell.tabIndex = 0;
      if (chosen.from === null) return;
      cell.classList.add("chosen");
      cell.setAttribute("aria-selected", "true");
      if (focus) cell.focus();
    };
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-from]");
      if (!cell) return;
      choose(Number(cell.dataset.from), Number(cell.dataset.to));
      mark(true);
    });
    table.addEventListener("keydown", (event) => move(event, cores, () => mark(true)));
    table.append(el("thead", {}, head), body);
    box.replaceChildren(el("div", { class: "scroll" }, table));
    mark(false);
  };
  /** The same for many cores: an image of a point a pair, drawn as large as asked. */
  const canvasMap = (cores, scale, box) => {
    const count = cores.length;
    const width = Math.max(260, Math.min(box.clientWidth || 900, 900));
    const [left, top] = [40, 20];
    const side = width - left;
    const density = window.devicePixelRatio || 1;
    const name = `${metricName()} by sender (rows) and receiver (columns): ${groups[chosen.group].name}`;
    const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": `${name}. ${count} cores. Arrow keys move the chosen pair, plus and minus zoom.`, style: `width:${width}px;height:${side + top}px`, width: Math.round(width * density), height: Math.round((side + top) * density) });
    const view = canvasView && canvasView.count === count ? canvasView : { count, x: 0, y: 0, span: count };
    canvasView = view;
    const points = el("canvas", { width: count, height: count });
    const image = new ImageData(count, count);
    cores.forEach((from, row) => cores.forEach((to, column) => {
      const value = pairValue(from, to);
      if (value === undefined || value === null) return;
      image.data.set([...color(scale.share(value)), 255], (row * count + column) * 4);
    }));
    points.getContext("2d").putImageData(image, 0, 0);
    const draw = () => {
      const pen = canvas.getContext("2d");
      pen.setTransform(density, 0, 0, density, 0, 0);
      pen.clearRect(0, 0, width, side + top);
      pen.fillStyle = style("--no-data");
      pen.fillRect(left, top, side, side);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(points, view.x, view.y, view.span, view.span, left, top, side, side);
      const size = side / view.span;
      pen.fillStyle = style("--ink");
      pen.font = "11px system-ui, sans-serif";
      const step = [1, 2, 4, 8, 16, 32, 64, 128].find((step) => step * size >= 30) ?? 128;
      for (let index = Math.ceil(view.x / step) * step; index < view.x + view.span; index += step) {
        pen.textAlign = "center";
        pen.fillText(String(cores[index]), left + (index - view.x + 0.5) * size, top - 6);
      }
      for (let index = Math.ceil(view.y / step) * step; index < view.y + view.span; index += step) {
        pen.textAlign = "right";
        pen.fillText(String(cores[index]), left - 5, top + (index - view.y + 0.5) * size + 4);
      }
      if (size >= 34) {
        pen.textAlign = "center";
        for (let row = view.y; row < view.y + view.span; row++) {
          for (let column = view.x; column < view.x + view.span; column++) {
            const value = pairValue(cores[row], cores[column]);
            if (value === undefined || value === null) continue;
            pen.fillStyle = inkOn(color(scale.share(value)));
            pen.fillText(cellNumber(value, scale), left + (column - view.x + 0.5) * size, top + (row - view.y + 0.5) * size + 4);
          }
        }
      }
      const [row, column] = [cores.indexOf(chosen.from), cores.indexOf(chosen.to)];
      if (row >= view.y && column >= view.x && row < view.y + view.span && column < view.x + view.span) {
        // A small cell is marked by a frame around it, so that its colour stays.
        const frame = Math.max(size, 9);
        const x = left + (column - view.x + 0.5) * size - frame / 2;
        const y = top + (row - view.y + 0.5) * size - frame / 2;
        pen.lineWidth = 4;
        pen.strokeStyle = style("--paper");
        pen.strokeRect(x, y, frame, frame);
        pen.lineWidth = 2;
        pen.strokeStyle = style("--accent");
        pen.strokeRect(x, y, frame, frame);
      }
      zoomText.textContent = view.span === count ? "" : `senders ${cores[view.y]} to ${cores[view.y + view.span - 1]}, receivers ${cores[view.x]} to ${cores[view.x + view.span - 1]}`;
    };
    const clamp = () => {
      view.x = Math.max(0, Math.min(count - view.span, Math.round(view.x)));
      view.y = Math.max(0, Math.min(count - view.span, Math.round(view.y)));
    };
    const zoom = (factor, row, column) => {
      const span = Math.max(Math.min(8, count), Math.min(count, Math.round(view.span / factor)));
      const at = [row ?? cores.indexOf(chosen.from), column ?? cores.indexOf(chosen.to)];
      const middle = [at[0] < 0 ? view.y + view.span / 2 : at[0], at[1] < 0 ? view.x + view.span / 2 : at[1]];
      Object.assign(view, { span, y: middle[0] - span / 2, x: middle[1] - span / 2 });
      clamp();
      draw();
    };
    const place = (event) => {
      const frame = canvas.getBoundingClientRect();
      const shrink = frame.width / width;
      const column = Math.floor(view.x + ((event.clientX - frame.left) / shrink - left) / (side / view.span));
      const row = Math.floor(view.y + ((event.clientY - frame.top) / shrink - top) / (side / view.span));
      const inside = column >= view.x && row >= view.y && column < view.x + view.span && row < view.y + view.span;
      return inside ? [row, column] : null;
    };
    const hover = el("p", { class: "readout", id: "heatmap-hover", "aria-hidden": "true" });
    const zoomText = el("span", { class: "hint" });
    canvas.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (!at) return hover.replaceChildren();
      const [from, to] = at.map((index) => cores[index]);
      const value = pairValue(from, to);
      hover.textContent = `Pointer: ${from} to ${to}: ${value === undefined ? "not measured" : `${metricName()} ${metricText(value)}`}`;
    });
    canvas.addEventListener("pointerleave", () => hover.replaceChildren());
    canvas.addEventListener("click", (event) => {
      const at = place(event);
      if (at) choose(cores[at[0]], cores[at[1]]);
      draw();
    });
    canvas.addEventListener("dblclick", (event) => {
      const at = place(event);
      if (at) zoom(4, ...at);
    });
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 2 : 0.5, ...(place(event) ?? []));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "+" || event.key === "=") return zoom(2);
      if (event.key === "-") return zoom(0.5);
      move(event, cores, ([row, column]) => {
        if (row < view.y || row >= view.y + view.span) view.y = row - view.span / 2;
        if (column < view.x || column >= view.x + view.span) view.x = column - view.span / 2;
        clamp();
        draw();
      });
    });
    const bar = el("div", { class: "controls" }, button("Zoom in", () => zoom(2)), button("Zoom out", () => zoom(0.5)), button("All", () => zoom(0)), zoomText);
    box.replaceChildren(bar, canvas, hover);
    canvas.redraw = draw;
    draw();
  };
  const drawHeatmap = () => {
    if (!pairs) return;
    const box = byId("heatmap-box");
    const [cores, scale] = [ordered(), scaleOf()];
    if (cores.length > MOST_CELLS) canvasMap(cores, scale, box);
    else gridMap(cores, scale, box);
    legend(scale);
    readout();
  };

  // --- charts -----------------------------------------------------------------------------------------------------------

  const logTicks = (low, high) => {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) {
        const tick = digit * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
    }
    const decades = ticks.filter((tick) => /^1(\.0+)?e/.test(tick.toExponential(3)));
    return ticks.length > 7 && decades.length > 1 ? decades.filter((_, index) => index % Math.ceil(decades.length / 7) === 0) : ticks;
  };
  const evenTicks = (low, high, most = 6) => {
    if (!(high > low)) return [low];
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= rough);
    const ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) ticks.push(Number(tick.toPrecision(12)));
    return ticks;
  };
  /** Axes and a pen: `x` and `y` are `{low, high, log, text, name}`. */
  const plot = (host, { title, alternative, height = 260, x, y }) => {
    const width = Math.max(280, Math.min(host.clientWidth || 560, 1200));
    const margin = { left: 58, right: 14, top: 10, bottom: 38 };
    const place = ({ low, high, log }, from, to) => (value) => {
      const share = log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
      return from + (to - from) * (Number.isFinite(share) ? share : 0.5);
    };
    const X = place(x, margin.left, width - margin.right);
    const Y = place(y, height - margin.bottom, margin.top);
    const node = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": alternative });
    const most = width < 420 ? 4 : 7;
    const thin = (ticks) => ticks.filter((_, index) => index % Math.ceil(ticks.length / most) === 0);
    for (const tick of thin(x.log ? logTicks(x.low, x.high) : evenTicks(x.low, x.high))) {
      node.append(
        svg("line", { class: "grid", x1: X(tick), x2: X(tick), y1: margin.top, y2: height - margin.bottom }),
        svg("text", { class: "minor", x: X(tick), y: height - margin.bottom + 15, "text-anchor": "middle" }, x.text(tick)),
      );
    }
    for (const tick of y.log ? logTicks(y.low, y.high) : evenTicks(y.low, y.high, 5)) {
      node.append(
        svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: Y(tick), y2: Y(tick) }),
        svg("text", { class: "minor", x: margin.left - 6, y: Y(tick) + 4, "text-anchor": "end" }, y.text(tick)),
      );
    }
    node.append(
      svg("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }),
      svg("line", { class: "axis", x1: margin.left, x2: margin.left, y1: margin.top, y2: height - margin.bottom }),
      svg("text", { class: "minor", x: width - margin.right, y: height - 4, "text-anchor": "end" }, x.name),
    );
    host.replaceChildren(el("figcaption", {}, el("h3", {}, title)), node);
    return { node, X, Y, width, height, margin };
  };
  const around = (values) => {
    const positive = values.filter((value) => value > 0);
    let [low, high] = [Infinity, -Infinity];
    for (const value of positive) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) return null;
    const room = Math.max(1.1, (high / low) ** 0.03);
    return high / low < 1.5 ? { low: low / 2, high: high * 2 } : { low: low / room, high: high * room };
  };
  const key = (entries) => {
    const list = el("ul", { class: "key" });
    for (const [fill, text] of entries) list.append(el("li", {}, el("i", { style: `background:${fill}` }), text));
    return list;
  };

  // --- distribution -----------------------------------------------------------------------------------------------------

  const spreads = DATA.distributions.filter((one) => one.cdf?.length);
  let spreadChoice = 0;
  /** The distribution of the heatmap's kind and state. */
  const follow = () => {
    const parts = groups[chosen.group]?.parts;
    const same = spreads.findIndex((one) => one.kind === parts?.kind && one.state === parts?.state && (one.distance ?? null) === null);
    if (same < 0) return;
    spreadChoice = same;
    const box = byId("spread-controls").querySelector("select");
    if (box) box.value = String(same);
  };
  const distanceText = (distance) => (distance === null || distance === undefined ? "all pairs" : distance === 0 ? "a core to itself" : `distance ${distance}`);
  const spreadName = (one) => [one.kind, one.state !== "unknown" ? `receiver in ${one.state}` : null, distanceText(one.distance)].filter(Boolean).join(", ");
  const QUANTILES = [["min_ns", "min", 0], ["p50_ns", "median", 0.5], ["p90_ns", "p90", 0.9], ["p99_ns", "p99", 0.99], ["p999_ns", "p99.9", 0.999], ["max_ns", "max", 1]];
  /** What is known of one row's distribution: its figures, as points. */
  const quantilesOf = (table, row) =>
    QUANTILES.map(([key, name, share]) => ({ name, share, ns: table.of[key]?.[row] ?? null })).filter((point) => point.ns !== null);
  const SQUARE = "#ee6677";
  const ROUND = "#228833";
  /** Whose histogram is shown. */
  let bars = "all";
  const drawSpread = () => {
    if (!spreads.length) return;
    const coreBox = byId("spread-controls").querySelectorAll("select")[1];
    if (coreBox) coreBox.value = String(chosen.core ?? "");
    const one = spreads[spreadChoice];
    const pair = pairs && chosen.from !== null ? pairRow(chosen.from, chosen.to) : undefined;
    const pairPoints = pair === undefined ? [] : quantilesOf(pairs, pair);
    const figures = TABLES["core-figures"];
    let coreRow = -1;
    if (figures && chosen.core !== null) {
      const role = suspect.core === chosen.core && suspect.role === "sender" ? "sender" : "receiver";
      const same = (row) => figures.of.core[row] === chosen.core && figures.of.role[row] === role && figures.of.kind[row] === one.kind && figures.of.state[row] === one.state;
      coreRow = Array.from({ length: figures.rows }, (_, row) => row).findIndex(same);
    }
    const corePoints = coreRow < 0 ? [] : quantilesOf(figures, coreRow);
    const nameOf = (word) => (word === null || word === undefined ? "null" : word);
    const { phase, kind, state, delivery } = groups[chosen.group]?.parts ?? {};
    const pairCdf = pair === undefined ? undefined : DATA.pair_cdfs[[chosen.from, chosen.to, phase, kind, state, delivery].map(nameOf).join("|")];
    const coreCdf = coreRow < 0 ? undefined : DATA.core_cdfs[["core", "role", "kind", "state"].map((name) => nameOf(figures.of[name][coreRow])).join("|")];
    const range = around([...one.cdf.map(([ns]) => ns), ...pairPoints.map((point) => point.ns), ...corePoints.map((point) => point.ns)]);
    if (!range) return;
    const total = one.cdf.at(-1)[1];
    const x = { ...range, log: true, text: tickText, name: "latency, logarithmic" };
    const percent = (share) => `${Math.round(share * 100)} %`;
    const alternative = `Cumulative distribution of ${grouped(total)} latencies: ${spreadName(one)}; from ${wholeTicks(one.cdf[0][0])} to ${wholeTicks(one.cdf.at(-1)[0])}`;
    const chart = plot(byId("cdf"), { title: "Share that took at most so long", alternative, x, y: { low: 0, high: 1, text: percent } });
    const { node, X, Y, margin, width } = chart;
    const curve = (cdf, stroke, dash, whose) => {
      const total = cdf.at(-1)[1];
      let line = `M${margin.left},${Y(0)}`;
      let last = 0;
      for (const [ns, count] of cdf) {
        if (ns > 0) line += `L${X(ns).toFixed(1)},${Y(last).toFixed(1)}L${X(ns).toFixed(1)},${Y(count / total).toFixed(1)}`;
        last = count / total;
      }
      node.append(svg("path", { d: `${line}L${width - margin.right},${Y(1)}`, fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash, "data-whose": whose }));
    };
    curve(one.cdf, "var(--accent)", "none", "all");
    if (coreCdf?.length) curve(coreCdf, SQUARE, "7 3", "core");
    if (pairCdf?.length) curve(pairCdf, ROUND, "2 2", "pair");
    const entries = [["var(--accent)", spreadName(one)]];
    for (const { ns, share, name } of corePoints) {
      node.append(svg("rect", { x: X(ns) - 6, y: Y(share) - 6, width: 12, height: 12, fill: "none", stroke: SQUARE, "stroke-width": 2.5 }, svg("title", {}, `${name} ${wholeTicks(ns)}`)));
    }
    if (corePoints.length) entries.push([SQUARE, `core ${chosen.core} as ${figures.of.role[coreRow]} (dashes; squares: its figures)`]);
    for (const { ns, share, name } of pairPoints) {
      node.append(svg("circle", { cx: X(ns), cy: Y(share), r: 4, fill: ROUND, stroke: "var(--paper)" }, svg("title", {}, `${name} ${wholeTicks(ns)}`)));
    }
    if (pairPoints.length) entries.push([ROUND, `pair ${chosen.from} to ${chosen.to}, ${groups[chosen.group].name} (dots; circles: its figures)`]);
    byId("cdf").append(key(entries));

    const whose = { pair: [pairCdf, `pair ${chosen.from} to ${chosen.to}`, ROUND], core: [coreCdf, `core ${chosen.core}`, SQUARE] }[bars];
    const [shown, of, fill] = whose?.[0]?.length ? whose : [one.cdf, spreadName(one), "var(--accent)"];
    const most = shown.reduce((most, [, count], index) => Math.max(most, count - (index ? shown[index - 1][1] : 0)), 0);
    const histogram = plot(byId("histogram"), {
      title: `How many took so long: ${of}`,
      alternative: `Histogram of ${grouped(shown.at(-1)[1])} latencies: ${of}; the fullest of ${shown.length} buckets has ${grouped(most)}`,
      x, y: { low: 0, high: most, text: (count) => (Number.isInteger(count) ? grouped(count) : "") },
    });
    shown.forEach(([ns, count], index) => {
      const [before, seen] = index ? shown[index - 1] : [0, 0];
      if (!(ns > 0) || count === seen) return;
      const right = histogram.X(ns);
      // No wider than it is seen, however far the bucket before it is.
      const left = Math.max(right - 10, before > 0 ? histogram.X(before) : -Infinity);
      const top = Math.min(histogram.Y(count - seen), histogram.Y(0) - 1);
      histogram.node.append(svg("rect", { x: left, y: top, width: Math.max(1, right - left - 0.5), height: histogram.Y(0) - top, fill },
        svg("title", {}, `${before > 0 ? `above ${wholeTicks(before)}, ` : ""}at most ${wholeTicks(ns)}: ${grouped(count - seen)}`)));
    });
    byId("histogram").append(el("p", { class: "hint" }, "A bar for each point of the report's distribution; it ends at the greatest length that it counts."));
    byId("spread-readout").textContent = `${spreadName(one)}: ${grouped(total)} latencies`;
  };
  if (spreads.length) {
    const controls = byId("spread-controls");
    controls.append(select("Kind, state, distance", spreads.map((one, index) => [index, spreadName(one)]), 0, (value) => { spreadChoice = Number(value); drawSpread(); }));
    if (TABLES["core-figures"]) {
      const cores = [...new Set(TABLES["core-figures"].of.core)].sort((a, b) => a - b);
      controls.append(select("Core", [["", "none"], ...cores.map((core) => [core, `core ${core}`])], chosen.core ?? "", (value) => {
        chosen.core = value === "" ? null : Number(value);
        drawSpread();
        drawSeries();
      }));
    }
    controls.append(select("Histogram of", [["all", "all"], ["core", "the core"], ["pair", "the pair"]], "all", (value) => { bars = value; drawSpread(); }));
    show("spread-section");
  }

  // --- stages -----------------------------------------------------------------------------------------------------------

  // One after another in the life of an IPI or a call (docs/call-layer.md, "Stages"); the others are sums of these, or beside them.
  const CHAIN = ["queue_to_send", "send_to_entry", "entry_to_acknowledge", "acknowledge_to_callback", "callback", "callback_to_end"];
  const CHAIN_WITHOUT = ["send_to_entry", "entry_to_acknowledge", "acknowledge_to_end"];
  const CHAIN_LINUX = ["queue_to_send", "send_to_entry", "entry_to_exit"];
  /** More bars than these are no picture. */
  const MOST_BARS = 32;
  let stageKind = null;
  const drawStages = () => {
    const table = TABLES.stages;
    if (!table || !table.of.mean_ns) return;
    const names = new Set();
    const cores = new Map();
    for (let row = 0; row < table.rows; row++) {
      if (table.of.kind[row] !== stageKind) continue;
      names.add(table.of.stage[row]);
      const core = table.of.core[row];
      if (!cores.has(core)) cores.set(core, new Map());
      cores.get(core).set(table.of.stage[row], row);
    }
    const chain = (names.has("acknowledge_to_callback") ? CHAIN : names.has("entry_to_exit") ? CHAIN_LINUX : CHAIN_WITHOUT).filter((stage) => names.has(stage));
    const host = byId("stages-chart");
    const lines = [...cores].sort((a, b) => a[0] - b[0])
      .map(([core, rows]) => ({ core, parts: chain.filter((stage) => rows.has(stage)).map((stage) => ({ stage, ns: table.of.mean_ns[rows.get(stage)], n: table.of.n[rows.get(stage)] })) }))
      .filter((line) => line.parts.length);
    const sum = (line) => line.parts.reduce((sum, part) => sum + part.ns, 0);
    const most = Math.max(...lines.map(sum));
    if (!lines.length || !(most > 0)) return host.replaceChildren(el("p", { class: "hint" }, "No stages of this kind follow one another."));
    const shown = lines.length > MOST_BARS ? [...lines].sort((a, b) => sum(b) - sum(a)).slice(0, MOST_BARS) : lines;
    const bar = shown.length > 16 ? 13 : 18;
    const chart = plot(host, {
      title: `Means of the stages, one after another: ${stageKind}`,
      alternative: `Stacked bars of ${chain.length} stages on ${shown.length} cores; the longest sum is ${wholeTicks(most)} on core ${lines.reduce((a, b) => (sum(a) >= sum(b) ? a : b)).core}. The table of stages has all figures.`,
      height: 48 + shown.length * (bar + 4),
      x: { low: 0, high: most, text: tickText, name: "mean" },
      y: { low: 0, high: -1, text: () => "" },
    });
    shown.forEach((line, index) => {
      const y = chart.margin.top + index * (bar + 4) + 2;
      chart.node.append(svg("text", { x: chart.margin.left - 6, y: y + bar / 2 + 4, "text-anchor": "end" }, `core ${line.core}`));
      let from = 0;
      for (const { stage, ns, n } of line.parts) {
        const x = chart.X(from);
        chart.node.append(svg("rect", { x, y, width: Math.max(0, chart.X(from + ns) - x), height: bar, fill: NAMES[chain.indexOf(stage) % NAMES.length], stroke: "var(--paper)", "stroke-width": 0.5 },
          svg("title", {}, `core ${line.core}, ${stage}: mean ${duration(ns)} of ${grouped(n)}`)));
        from += ns;
      }
    });
    host.append(key(chain.map((stage, index) => [NAMES[index % NAMES.length], stage.replaceAll("_", " ")])));
    const few = shown.length < lines.length ? ` The ${shown.length} cores with the longest sums, of ${lines.length}.` : "";
    host.append(el("p", { class: "hint" }, `Means add up, medians do not. What is no part of the sum stands in the table.${few}`));
  };
  if (TABLES.stages) {
    const kinds = [...new Set(TABLES.stages.of.kind)];
    const measured = (kind) => TABLES.stages.of.kind.reduce((sum, other, row) => sum + (other === kind ? TABLES.stages.of.n?.[row] ?? 0 : 0), 0);
    stageKind = kinds.reduce((most, kind) => (measured(kind) > measured(most) ? kind : most), kinds[0]);
    byId("stages-controls").append(select("Kind", kinds.map((kind) => [kind, kind]), stageKind, (value) => { stageKind = value; drawStages(); }));
    show("stages-section");
  }

  // --- over time --------------------------------------------------------------------------------------------------------

  const series = DATA.series.filter((line) => line.n.some(Boolean));
  const depths = DATA.queue_depth.filter((line) => line.series.some(([, most]) => most > 0));
  const drawSeries = () => {
    if (!series.length && !depths.length) return;
    const box = byId("series-controls").querySelector("select");
    if (box && chosen.core !== null) box.value = String(chosen.core);
    const own = series.find((line) => line.core === chosen.core) ?? series[0];
    if (own) {
      const at = (line, index) => line.start + (index + 0.5) * line.piece;
      const range = around(series.flatMap((line) => [...line.min, ...line.max].filter((value) => value !== null)));
      const end = Math.max(...series.map((line) => line.start + line.n.length * line.piece));
      const begin = Math.min(...series.map((line) => line.start));
      const peak = Math.max(...own.max.filter((value) => value !== null));
      if (range) {
        const chart = plot(byId("series-chart"), {
          title: `Latency at core ${own.core} over time`,
          alternative: `Mean latency at core ${own.core} over time, with least and greatest, before the means of the other cores. Its greatest is ${wholeTicks(peak)}.`,
          x: { low: begin, high: end, text: tickText, name: "from the plan's begin" },
          y: { ...range, log: true, text: tickText },
        });
        const path = (line, values) => {
          let [text, open] = ["", false];
          values.forEach((value, index) => {
            if (value === null || value <= 0) return void (open = false);
            const [x, y] = [chart.X(at(line, index)).toFixed(1), chart.Y(value).toFixed(1)];
            text += `${open ? "L" : "M"}${x},${y}${open ? "" : "h.01"}`;
            open = true;
          });
          return text;
        };
        for (const line of series) {
          if (line !== own) chart.node.append(svg("path", { d: path(line, line.mean), fill: "none", stroke: "var(--muted)", "stroke-width": 1, opacity: 0.45, "stroke-linecap": "round" }));
        }
        own.n.forEach((count, index) => {
          if (!count || own.min[index] <= 0) return;
          const x = chart.X(at(own, index));
          chart.node.append(svg("line", { x1: x, x2: x, y1: chart.Y(own.min[index]), y2: chart.Y(own.max[index]), stroke: "var(--accent)", "stroke-width": 3, opacity: 0.4, "stroke-linecap": "round" },
            svg("title", {}, `${tickText(at(own, index))}: ${grouped(count)} latencies, ${wholeTicks(own.min[index])} to ${wholeTicks(own.max[index])}`)));
        });
        chart.node.append(svg("path", { d: path(own, own.mean), fill: "none", stroke: "var(--accent)", "stroke-width": 2, "stroke-linecap": "round" }));
        byId("series-chart").append(key([["var(--accent)", `core ${own.core} as receiver: mean, least to greatest`], ["var(--muted)", "means of the other cores"]]));
      }
    }
    const queue = depths.filter((line) => line.core === chosen.core);
    const queues = queue.length ? queue : depths.slice(0, 1);
    if (!queues.length) return;
    const end = Math.max(...depths.flatMap((line) => line.series.map(([time]) => time)));
    const most = Math.max(...queues.flatMap((line) => line.series.map(([, depth]) => depth)));
    const chart = plot(byId("depth-chart"), {
      title: `Most calls on the queues of core ${queues[0].core} over time`,
      alternative: `Queues of core ${queues[0].core} over time; at most ${most} calls.`,
      height: 180,
      x: { low: 0, high: end, text: tickText, name: "from the plan's begin" },
      y: { low: 0, high: Math.max(1, most), text: (value) => (Number.isInteger(value) ? grouped(value) : "") },
    });
    queues.forEach((line, index) => {
      let text = "";
      let last = 0;
      for (const [time, depth] of line.series) {
        const x = chart.X(time).toFixed(1);
        text += text ? `L${x},${chart.Y(last).toFixed(1)}L${x},${chart.Y(depth).toFixed(1)}` : `M${x},${chart.Y(depth).toFixed(1)}`;
        last = depth;
      }
      chart.node.append(svg("path", { d: `${text}H${chart.X(end).toFixed(1)}`, fill: "none", stroke: NAMES[index], "stroke-width": 1.5 }));
    });
    byId("depth-chart").append(key(queues.map((line, index) => [NAMES[index], line.kind])));
  };
  if (series.length || depths.length) {
    const cores = [...new Set([...series, ...depths].map((line) => line.core))].sort((a, b) => a - b);
    byId("series-controls").append(select("Core", cores.map((core) => [core, `core ${core}`]), chosen.core ?? cores[0], (value) => {
      chosen.core = Number(value);
      drawSeries();
      drawSpread();
    }));
    show("series-section");
  }

  // --- trails -----------------------------------------------------------------------------------------------------------

  /** Keeps a text legible on lines. */
  const HALO = { "paint-order": "stroke", stroke: "var(--paper)", "stroke-width": 4 };
  const drawTrails = () => {
    const host = byId("trails");
    if (!DATA.trails.length) return;
    host.replaceChildren();
    show("trails-section");
    DATA.trails.forEach((trail, number) => {
      const times = [...trail.events.map((event) => event.t_ns), ...trail.arrows.flatMap((arrow) => [arrow.from_t, arrow.to_t])];
      const begin = times.reduce((a, b) => Math.min(a, b), Infinity);
      const end = times.reduce((a, b) => Math.max(a, b), -Infinity);
      if (!(begin <= end)) return;
      const figure = el("figure", { class: "trail" });
      host.append(figure);
      const gap = 58;
      const chart = plot(figure, {
        title: trail.title,
        alternative: `${trail.title}: ${trail.events.length} events and ${trail.arrows.length} IPIs on ${trail.cores.length} cores in ${duration(end - begin)}. The table of its events has them all.`,
        height: 56 + trail.cores.length * gap,
        x: { low: 0, high: Math.max(end - begin, TICK), text: tickText, name: "after its first event" },
        y: { low: 0, high: -1, text: () => "" },
      });
      const lane = (core) => chart.margin.top + (trail.cores.indexOf(core) + 0.62) * gap;
      const id = `head-${number}`;
      chart.node.append(svg("defs", {}, svg("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0,0L8,4L0,8z", fill: "var(--bad)" }))));
      for (const core of trail.cores) {
        chart.node.append(
          svg("line", { class: "axis", x1: chart.margin.left, x2: chart.width - chart.margin.right, y1: lane(core), y2: lane(core) }),
          svg("text", { x: chart.margin.left - 6, y: lane(core) + 4, "text-anchor": "end" }, `core ${core}`),
        );
      }
      for (const arrow of trail.arrows) {
        const [x1, y1, x2, y2] = [chart.X(arrow.from_t - begin), lane(arrow.from_core), chart.X(arrow.to_t - begin), lane(arrow.to_core)];
        chart.node.append(svg("line", { x1, y1, x2, y2, stroke: "var(--bad)", "stroke-width": 1.5, "marker-end": `url(#${id})` }));
        if (arrow.latency !== null) {
          // Beside the arrow, clear of both lines.
          const text = wholeTicks(arrow.latency);
          const x = Math.min(chart.width - chart.margin.right - text.length * 6.6, (x1 + x2) / 2 + 6);
          chart.node.append(svg("text", { x, y: (y1 + y2) / 2 + (y2 > y1 ? -4 : 2), ...HALO }, text));
        }
      }
      for (const core of trail.cores) {
        // A label that would stand on another is left to the table.
        let free = -Infinity;
        for (const event of trail.events.filter((event) => event.core === core).sort((a, b) => a.t_ns - b.t_ns)) {
          const x = chart.X(event.t_ns - begin);
          chart.node.append(svg("line", { x1: x, x2: x, y1: lane(core) - 6, y2: lane(core) + 6, stroke: "var(--ink)", "stroke-width": 1.5 },
            svg("title", {}, `${duration(event.t_ns - begin)}: ${event.what}${event.detail ? ` (${event.detail})` : ""}`)));
          const width = event.what.length * 6.4;
          const left = Math.max(chart.margin.left, Math.min(x - 3, chart.width - chart.margin.right - width));
          if (left < free) continue;
          chart.node.append(svg("text", { class: "minor", x: left, y: lane(core) - 10, ...HALO }, event.what));
          free = left + width + 8;
        }
      }
    });
  };

  // --- the page ---------------------------------------------------------------------------------------------------------

  // The pair that is shown first: the suspect's slowest, else the slowest.
  if (pairs) {
    const measure = pairs.of.p50_ns?.some((value) => value !== null) ? pairs.of.p50_ns : pairs.of.mean_ns ?? pairs.of.max_ns;
    const concerned = (row) => {
      const [from, to] = [pairs.of.from[row], pairs.of.to[row]];
      if (suspect.from !== null && suspect.from !== undefined) return from === suspect.from && to === suspect.to;
      if (suspect.core === null || suspect.core === undefined) return true;
      return suspect.role === "sender" ? from === suspect.core : suspect.role === "receiver" ? to === suspect.core : from === suspect.core || to === suspect.core;
    };
    let best = null;
    for (const row of groups[0].rows.values()) {
      if (concerned(row) && (best === null || (measure[row] ?? -1) > (measure[best] ?? -1))) best = row;
    }
    if (best !== null) {
      [chosen.from, chosen.to] = [pairs.of.from[best], pairs.of.to[best]];
      chosen.core ??= chosen.to;
    }
  }
  follow();
  const drawAll = () => {
    drawHeatmap();
    drawSpread();
    drawStages();
    drawSeries();
    drawTrails();
  };
  drawAll();

  const nav = byId("nav");
  document.querySelectorAll("main section:not([hidden]) > h2").forEach((heading) => {
    nav.append(el("a", { href: `#${heading.id}` }, heading.textContent));
  });
  const theme = byId("theme");
  const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const nameTheme = () => (theme.textContent = isDark() ? "Light" : "Dark");
  theme.setAttribute("aria-label", "Switch between light and dark");
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
    document.querySelectorAll("canvas").forEach((canvas) => canvas.redraw?.());
  });
  nameTheme();
  show("theme");
  let lastWidth = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === lastWidth) return;
    lastWidth = window.innerWidth;
    drawAll();
  });
})();
