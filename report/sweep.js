// The page of a sweep: the chart, its front and the table, for the filters that the reader sets.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const { columns, asked } = data;
  const count = data.candidates.length;
  const everyRow = Array.from({ length: count }, (_, row) => row);
  const overBudget = new Set(data.over_budget);
  const energies = columns.find(({ name }) => name === "energy_kwh").values;
  const numeric = columns.filter(({ words }) => words === undefined);
  const reasonOf = (row) => data.reasons[data.failed[row]];
  const MOST_OPTIONS = 40; // of a filter that lists a column's values
  const LOG_RATIO = 8; // as in charts.py: values further apart than this get a logarithmic axis

  // -- text, as sweep_page.py writes it --------------------------------------------------------------

  const COUNTS = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

  function counted(value) {
    const [factor, unit] = COUNTS.find(([one]) => value >= one) ?? [1, ""];
    return unit ? `${general(value / factor, 4)} ${unit}` : commas(String(Math.round(value)));
  }

  function plain(value) {
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
    return value < 0 ? `-${general(-value, 4)}` : general(value, 4);
  }

  const exact = (value) => ({ value, low: value, high: value });
  const inItsUnit = (value, units) => inUnit(exact(value), units).slice(0, 2).join(" ");

  function textOf(column, row) {
    const value = column.values[row];
    if (column.words) return value < 0 ? "" : column.words[value];
    if (value === null) return "";
    if (column.units === "count") return counted(value);
    return column.units === null ? plain(value) : inItsUnit(value, column.units);
  }

  function made(tag, text = "", attributes = {}) {
    const node = document.createElement(tag);
    node.textContent = text;
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  const drawn = (tag, attributes, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return node;
  };

  // -- filters ---------------------------------------------------------------------------------------

  const lists = new Map(); // columns with few values, and their filter

  function frontOf(rows, column) {
    const sign = column.more ? -1 : 1;
    const { values } = column;
    const able = rows.filter((row) => energies[row] !== null && values[row] !== null && !overBudget.has(row));
    able.sort((a, b) => energies[a] - energies[b] || sign * (values[a] - values[b]) || a - b);
    const kept = [];
    let [best, energy] = [Infinity, Infinity];
    for (const row of able) {
      const own = sign * values[row];
      if (own < best || (own === best && energies[row] === energy)) {
        kept.push(row);
        [best, energy] = [own, energies[row]];
      }
    }
    return kept;
  }

  const chosen = () => columns[Number(byId("against").value)];
  const bound = (id) => (byId(id).value === "" ? null : Number(byId(id).value));

  // The candidates that pass the filters, before "on the front" is applied.
  function passing() {
    const show = byId("show").value;
    const range = columns[Number(byId("range").value)];
    const [least, most] = [bound("least"), bound("most")];
    const text = byId("text").value.trim().toLowerCase();
    const wanted = [...lists].filter(([, list]) => list.value !== "");
    return everyRow.filter((row) => {
      if (show === "priced" && energies[row] === null) return false;
      if (show === "failed" && data.failed[row] === undefined) return false;
      if (show === "over" && !overBudget.has(row)) return false;
      if (wanted.some(([column, list]) => textOf(column, row) !== list.value)) return false;
      const value = range.values[row];
      if (least !== null && (value === null || value < least)) return false;
      if (most !== null && (value === null || value > most)) return false;
      return !text || wordsOf(row).includes(text);
    });
  }

  const wordsOf = (row) => {
    const words = columns.slice(0, asked).map((column) => textOf(column, row));
    return `${data.candidates[row]} ${words.join(" ")} ${reasonOf(row) ?? ""}`.toLowerCase();
  };

  function sorted(rows) {
    const column = columns[Number(byId("sort").value)];
    const sign = byId("order").value === "up" ? 1 : -1;
    const order = column?.words ? ranks(column.words) : null;
    const value = (row) => {
      if (!column) return row;
      const own = column.values[row];
      return order ? (own < 0 ? null : order[own]) : own;
    };
    return [...rows].sort((a, b) => {
      const [one, other] = [value(a), value(b)];
      if (one === null || other === null) return (one === null) - (other === null) || a - b; // always last
      return sign * (one - other) || a - b;
    });
  }

  function ranks(words) {
    const order = words.map((_, code) => code).sort((a, b) => words[a].localeCompare(words[b], "en", { numeric: true }));
    const found = [];
    order.forEach((code, rank) => { found[code] = rank; });
    return found;
  }

  // -- the table -------------------------------------------------------------------------------------

  let [ordered, first] = [[], 0];

  function writeRows() {
    const last = Math.min(first + data.rows_at_once, ordered.length);
    byId("table").tBodies[0].replaceChildren(...ordered.slice(first, last).map(rowOf));
    byId("pages").hidden = ordered.length <= data.rows_at_once;
    byId("place").textContent = `${commas(String(first + 1))} to ${commas(String(last))} of ${commas(String(ordered.length))}`;
    byId("previous").disabled = first === 0;
    byId("next").disabled = last === ordered.length;
  }

  function rowOf(row) {
    const line = document.createElement("tr");
    const head = made("th", String(data.candidates[row]), { scope: "row" });
    if (overBudget.has(row)) head.append(made("small", "over budget"));
    line.append(head);
    const reason = reasonOf(row);
    const cells = reason === undefined ? columns : columns.slice(0, asked);
    for (const column of cells) line.append(made("td", textOf(column, row), { "data-label": column.label }));
    if (reason !== undefined) {
      line.className = "failed";
      const attributes = { class: "reason", colspan: columns.length - asked, "data-label": "failed" };
      line.append(made("td", reason, attributes));
    }
    return line;
  }

  function summary(rows) {
    const priced = rows.filter((row) => energies[row] !== null);
    const sum = (values) => priced.reduce((total, row) => total + values[row], 0);
    const energy = { value: sum(energies), low: sum(data.energy[0]), high: sum(data.energy[1]) };
    const head = `${commas(String(rows.length))} of ${commas(String(count))} candidates`;
    if (!priced.length) return head;
    const { units } = columns.find(({ name }) => name === "energy_kwh");
    const [value, unit, bounds] = inUnit(energy, units);
    const rest = ["co2e_kg", "seconds", "cost"].map((name) => {
      const column = columns.find((one) => one.name === name);
      return inItsUnit(sum(column.values), column.units);
    });
    return `${head}; together ${value} ${unit} (${bounds}), ${rest.join(", ")}`;
  }

  function markSorted() {
    for (const head of document.querySelectorAll("#table thead th")) {
      const own = (head.dataset.column ?? "-1") === byId("sort").value;
      if (own) head.setAttribute("aria-sort", byId("order").value === "up" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  // -- the chart -------------------------------------------------------------------------------------

  // An axis from `low` to `high` with round ticks: where a value is between 0 and 1, and the ticks.
  function axisOf(values, most) {
    let [low, high] = [Infinity, -Infinity];
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > 0 && high / low > LOG_RATIO) {
      const margin = (high / low) ** 0.05;
      [low, high] = [Math.log10(low / margin), Math.log10(high * margin)];
      const multiples = high - low < 2.3 ? [1, 2, 5] : [1];
      const every = Math.max(1, Math.ceil((high - low) / most));
      const ticks = [];
      for (let power = Math.floor(low); power <= high; power++) {
        if (power % every) continue;
        for (const one of multiples) ticks.push(one * 10 ** power);
      }
      const place = (value) => (Math.log10(value) - low) / (high - low);
      return { place, ticks: ticks.filter((tick) => place(tick) >= 0 && place(tick) <= 1) };
    }
    const margin = 0.05 * (high - low) || 0.1 * Math.abs(high) || 1;
    [low, high] = [low - margin, high + margin];
    const rough = (high - low) / most;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
    const ticks = [];
    for (let tick = Math.ceil(low / step); tick * step <= high; tick++) ticks.push(tick * step);
    return { place: (value) => (value - low) / (high - low), ticks };
  }

  // What the numbers on a column's axis say, and the unit that they are in.
  function scaleOf(column, values) {
    const tidy = (value) => plain(Number(value.toPrecision(6)));
    if (column.units === null) return [tidy, ""];
    if (column.units === "count") return [(value) => (value < 0 ? "" : counted(value)), ""];
    const most = values.reduce((one, other) => Math.max(one, other), 0);
    const [factor, unit] = column.units.find(([one]) => clean(most) >= one) ?? column.units.at(-1);
    return [(value) => tidy(value / factor), unit];
  }

  const NARROW = 280;
  let spots = []; // [x, y, row] of each point, for the pointer

  function draw(rows, front, column) {
    const width = Math.max(NARROW, Math.floor(byId("chart").clientWidth));
    const height = Math.round(Math.min(420, Math.max(260, 0.6 * width)));
    const box = { left: 58, right: width - 12, top: 22, bottom: height - 40 };
    const points = rows.filter((row) => energies[row] !== null && column.values[row] !== null);
    const xs = points.map((row) => column.values[row]);
    const ys = points.map((row) => energies[row]);
    const label = `Scatter plot. Energy against ${column.label} of ${commas(String(points.length))} candidates. ` +
      `On the front: ${front.slice(0, 20).map((row) => data.candidates[row]).join(", ")}` +
      `${front.length > 20 ? ` and ${front.length - 20} more` : ""}`;
    const svg = drawn("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    spots = [];
    if (points.length) {
      const [across, up] = [axisOf(xs, width / 90), axisOf(ys, height / 60)];
      const [xText, xUnit] = scaleOf(column, xs);
      const [yText, yUnit] = scaleOf(columns.find(({ name }) => name === "energy_kwh"), ys);
      const x = (value) => box.left + across.place(value) * (box.right - box.left);
      const y = (value) => box.bottom - up.place(value) * (box.bottom - box.top);
      for (const tick of up.ticks) {
        svg.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
        svg.append(drawn("text", { x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, yText(tick)));
      }
      for (const tick of across.ticks) {
        svg.append(drawn("text", { x: x(tick), y: box.bottom + 17, "text-anchor": "middle" }, xText(tick)));
      }
      svg.append(drawn("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
      const title = `${column.label}${xUnit && `, ${xUnit}`}`;
      svg.append(drawn("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, title));
      svg.append(drawn("text", { x: 2, y: 12 }, `energy, ${yUnit}`));
      spots = points.map((row, index) => [x(xs[index]), y(ys[index]), row]);
      const best = new Set(front);
      const path = (some) => some.map(([left, top]) => `M${left.toFixed(1)} ${top.toFixed(1)}h0`).join("");
      const steps = front.map((row) => `${x(column.values[row]).toFixed(1)} ${y(energies[row]).toFixed(1)}`);
      svg.append(drawn("path", { class: "other-dots", d: path(spots.filter(([, , row]) => !best.has(row))) }));
      if (steps.length) svg.append(drawn("path", { class: "front-line", d: `M${steps.join("L")}` }));
      svg.append(drawn("path", { class: "front-dots", d: path(spots.filter(([, , row]) => best.has(row))) }));
    }
    byId("chart").replaceChildren(svg);
    byId("chart-title").textContent = `Energy against ${column.label}`;
    byId("chart-column").textContent = column.label;
    byId("chart-direction").textContent = column.more ? "more" : "less";
  }

  // The candidate below the pointer, in words.
  function point(event) {
    const svg = byId("chart").firstElementChild;
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    let [nearest, distance] = [null, 12 ** 2];
    for (const [left, top, row] of spots) {
      const own = (left - x) ** 2 + (top - y) ** 2;
      if (own < distance) [nearest, distance] = [row, own];
    }
    if (nearest === null) return;
    const parts = columns.map((column) => [column.label, textOf(column, nearest)]).filter(([, text]) => text);
    const words = parts.map(([name, text]) => `${name} ${text}`).join(", ");
    byId("pointed").textContent = `Candidate ${data.candidates[nearest]}: ${words}`;
  }

  // -- all together ----------------------------------------------------------------------------------

  let [rows, front] = [[], []];

  function update() {
    for (const id of ["least", "most"]) byId(id).setAttribute("aria-invalid", String(byId(id).validity.badInput));
    rows = passing();
    front = frontOf(rows, chosen());
    if (byId("show").value === "front") rows = front;
    draw(rows, front, chosen());
    byId("shown").textContent = summary(rows);
    arrange();
  }

  function arrange() {
    ordered = sorted(rows);
    first = 0;
    markSorted();
    writeRows();
  }

  function start() {
    const options = (list, some) => list.append(...some.map((column) => made("option", column.label, { value: columns.indexOf(column) })));
    options(byId("against"), numeric.filter(({ name }) => name !== "energy_kwh"));
    options(byId("range"), numeric);
    byId("sort").append(made("option", "candidate", { value: -1 }));
    options(byId("sort"), columns);
    for (const column of columns.slice(0, asked)) {
      const found = new Set(everyRow.map((row) => textOf(column, row)));
      found.delete("");
      if (found.size < 2 || found.size > MOST_OPTIONS) continue;
      const control = made("div", "", { class: "control" });
      const id = `only-${columns.indexOf(column)}`;
      const list = made("select", "", { id });
      list.append(made("option", "any", { value: "" }));
      const names = [...found].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      list.append(...names.map((name) => made("option", name, { value: name })));
      control.append(made("label", column.label, { for: id }), list);
      byId("range").parentElement.before(control);
      lists.set(column, list);
    }
    byId("table").tHead.querySelectorAll("th").forEach((head) => {
      const place = head.dataset.column ?? "-1";
      const button = made("button", head.textContent, { type: "button" });
      button.addEventListener("click", () => {
        byId("order").value = byId("sort").value === place && byId("order").value === "up" ? "down" : "up";
        byId("sort").value = place;
        arrange();
      });
      head.replaceChildren(button);
    });
    for (const id of ["against", "show", "range", "least", "most", "text"]) byId(id).addEventListener("input", update);
    for (const list of lists.values()) list.addEventListener("input", update);
    for (const id of ["sort", "order"]) byId(id).addEventListener("input", arrange);
    byId("previous").addEventListener("click", () => { first -= data.rows_at_once; writeRows(); });
    byId("next").addEventListener("click", () => { first += data.rows_at_once; writeRows(); });
    byId("chart").addEventListener("pointermove", point);
    byId("reset").addEventListener("click", reset);
    new ResizeObserver(() => draw(rows, front, chosen())).observe(byId("chart"));
    byId("filters").hidden = false;
    reset();
  }

  function reset() {
    const energy = columns.findIndex(({ name }) => name === "energy_kwh");
    byId("against").value = columns.findIndex(({ name }) => name === data.chart);
    byId("show").value = "all";
    for (const id of ["least", "most", "text"]) byId(id).value = "";
    for (const list of lists.values()) list.value = "";
    [byId("range").value, byId("sort").value, byId("order").value] = [energy, energy, "up"];
    update();
  }

  start();
})();
