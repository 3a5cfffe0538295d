// What the figures would be with another length, PUE, region or price: the arithmetic of joulecast's
// estimator, in its order, and its way of writing numbers. tests/report holds both together.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);

  const fill = (template, values) => data.words[template].replace(/\{(\w+)\}/g, (_, name) => values[name]);

  // -- the run -------------------------------------------------------------------------------------

  // Steps of so many epochs, in decimals as they were typed: 0.07 epochs of 100 steps are 7, not 8.
  function stepsOf(epochs, perEpoch) {
    const [mantissa, power] = String(epochs).split("e");
    const [whole, fraction = ""] = mantissa.split(".");
    const shift = Number(power ?? 0) - fraction.length;
    const amount = BigInt(whole + fraction) * BigInt(perEpoch) * 10n ** BigInt(Math.max(shift, 0));
    const scale = 10n ** BigInt(Math.max(-shift, 0));
    return Number((amount + scale - 1n) / scale);
  }

  // Steps, epochs (null where nothing tells them) and validation passes; of models that differ, as they are.
  function runOf(model, length) {
    const perEpoch = model.steps_per_epoch;
    if (data.length_unit === null) return model.run;
    const inEpochs = data.length_unit === "epochs";
    const steps = inEpochs ? stepsOf(length, perEpoch) : length;
    const epochs = inEpochs ? length : perEpoch === null ? null : steps / perEpoch;
    return { steps, epochs, passes: model.passes_per_epoch * Math.ceil(epochs ?? 0) };
  }

  const exact = (value) => ({ value, low: value, high: value });
  const times = (interval, factor) => ({
    value: interval.value * factor,
    low: interval.low * factor,
    high: interval.high * factor,
  });

  function figuresOf(model, settings) {
    const run = runOf(model, settings.length);
    const at = ([start, perStep, validationStart, perPass]) =>
      start + perStep * run.steps + (run.passes ? validationStart + perPass * run.passes : 0);
    const grown = (lines) => ({ value: at(lines.value), low: at(lines.low), high: at(lines.high) });
    const seconds = grown(model.growth.seconds);
    const energy = grown(model.growth.energy_kwh);
    const facility = times(energy, settings.pue);
    return {
      ...run,
      seconds,
      energy_kwh: energy,
      facility_energy_kwh: facility,
      co2e_kg: times(facility, settings.carbon / 1000),
      cost: times(facility, settings.price),
      rent: times(seconds, model.rent_per_s),
      power_w: exact(seconds.value ? (energy.value * 3600000) / seconds.value : 0),
    };
  }

  // -- limits --------------------------------------------------------------------------------------

  function compared(limit, figures) {
    const figure = figures[limit.figure][limit.bound];
    const excess = figure - limit.amount;
    return { limit, figure, excess, percent: (100 * excess) / limit.amount, exceeded: figure > limit.amount };
  }

  const state = (verdict) => (verdict.exceeded ? "exceeds" : "fits");
  const percent = (verdict) => number(Math.abs(verdict.percent));
  const worst = (verdicts) => verdicts.reduce((one, other) => (other.percent > one.percent ? other : one));

  function sentence(verdict) {
    const { limit } = verdict;
    return fill(verdict.exceeded ? "exceeded" : "kept", {
      quantity: data.words[limit.quantity],
      figure: number(verdict.figure / limit.units_per_given),
      unit: limit.unit,
      end: data.words[limit.at],
      excess: number(Math.abs(verdict.excess) / limit.units_per_given),
      percent: percent(verdict),
    });
  }

  // What would fit in place of a run that exceeds a limit.
  function wouldFit(verdict, figures) {
    const { limit } = verdict;
    const [length, unit] = figures.epochs === null ? [figures.steps, "step"] : [figures.epochs, "epoch"];
    const most = Math.floor((limit.amount / verdict.figure) * length * (1 + 1e-9));
    const units = most === 1 ? unit : `${unit}s`;
    const lines = [fill("length_fits", { text: limit.text, length: commas(String(most)), unit: units })];
    if (limit.quantity !== "co2e") return lines;
    const energy = figures.facility_energy_kwh[limit.bound];
    const basis = basisOf(regions.get(byId("region").value));
    const clean = data.regions.filter((region) => {
      const kg = (energy * region[2]) / 1000;
      return basisOf(region) === basis && kg > 0 && kg <= limit.amount;
    });
    clean.sort((one, other) => one[2] - other[2]);
    if (!clean.length) return lines;
    const names = clean.slice(0, 3).map(([code, name]) => `${name} (${code})`);
    return [...lines, fill("regions_fit", { text: limit.text, count: clean.length, basis, names: names.join(", ") })];
  }

  // What a region's figure counts: its note says where that is not the life cycle.
  function basisOf([, , , note]) {
    return note.includes("direct") ? "direct" : "life cycle";
  }

  // -- words ---------------------------------------------------------------------------------------

  const shown = (figures, name) => inUnit(figures[name], data.units[name]).slice(0, 2).join(" ");

  function headline(results) {
    const [{ figures, verdicts }] = results;
    if (results.length > 1) return comparison(results);
    if (!verdicts.length) {
      const names = ["facility_energy_kwh", "co2e_kg", "cost", "seconds"];
      return fill("figures", Object.fromEntries(names.map((name) => [name, shown(figures, name)])));
    }
    const verdict = worst(verdicts);
    const exceeds = verdict.percent >= data.far_percent ? "exceeds_far" : "exceeds";
    const times = number(verdict.figure / verdict.limit.amount);
    return fill(verdict.exceeded ? exceeds : "fits", { percent: percent(verdict), times, text: verdict.limit.text });
  }

  function comparison(results) {
    const names = data.models.map((model) => model.name);
    if (results[0].verdicts.length) {
      const fitting = names.filter((_, index) => !results[index].verdicts.some((one) => one.exceeded));
      const template = fitting.length === names.length ? "all_fit" : fitting.length ? "some_fit" : "none_fits";
      const limits = data.models[0].limits.map((limit) => limit.text).join(" and ");
      return fill(template, { count: names.length, fitting: fitting.length, names: fitting.join(", "), limits });
    }
    const amounts = results.map(({ figures }) => figures.facility_energy_kwh.value);
    const least = amounts.indexOf(Math.min(...amounts));
    const most = amounts.indexOf(Math.max(...amounts));
    return fill("least", {
      least: names[least],
      most: names[most],
      energy: shown(results[least].figures, "facility_energy_kwh"),
      factor: number(amounts[most] / amounts[least]),
    });
  }

  // At most one comparison for the energy and one for the CO2e: those nearest to 20 of something.
  function familiar(figures) {
    const amounts = { energy: figures.facility_energy_kwh.value, co2e: figures.co2e_kg.value };
    const distance = (count) => Math.abs(Math.log(count / 20));
    return Object.keys(amounts).flatMap((quantity) => {
      const options = data.yardsticks
        .filter(([one]) => one === quantity)
        .map(([, amount, plural, source]) => ({ count: clean(amounts[quantity] / amount), plural, source }))
        .filter(({ count }) => count >= 0.1 && count <= 10000)
        .sort((one, other) => distance(one.count) - distance(other.count));
      return options.slice(0, 1).map(({ count, plural, source }) => {
        const text = count < 10 ? general(count, 2) : commas(placed(...digitsOf(count, 2)));
        return fill("familiar", { count: text, plural, source });
      });
    });
  }

  // -- writing it into the page --------------------------------------------------------------------

  function write(results, settings) {
    for (const node of all("data[data-figure]")) {
      const { figures } = results[node.dataset.model];
      const name = node.dataset.figure;
      const [amount, unit] = inUnit(figures[name], data.units[name]);
      node.value = String(figures[name].value);
      node.querySelector(".number").textContent = amount;
      node.querySelector(".unit").textContent = ` ${unit}`;
    }
    for (const node of all("[data-bounds]")) {
      const interval = results[node.dataset.model].figures[node.dataset.bounds];
      node.dataset.low = String(interval.low);
      node.dataset.high = String(interval.high);
      node.textContent = inUnit(interval, data.units[node.dataset.bounds])[2];
    }
    for (const node of all("[data-setting]")) node.textContent = number(settings[node.dataset.setting]);
    writeBars(results);
    writeVerdicts(results);
    writeList("familiar", familiar(results[0].figures));
    writeGrids(results, settings);
    const [{ figures }] = results;
    if (data.length_unit === "epochs") byId("steps").textContent = fill("steps", { steps: commas(String(figures.steps)) });
  }

  function writeList(id, lines) {
    byId(id)?.replaceChildren(...lines.map((line) => made("li", line)));
  }

  function writeBars(results) {
    for (const node of all("[data-bar]")) {
      const name = node.dataset.bar;
      const highest = Math.max(data.axes[name], ...results.map(({ figures }) => figures[name].high));
      const at = (amount) => `${(highest ? (100 * amount) / highest : 0).toFixed(2)}%`;
      const { value, low, high } = results[node.dataset.model].figures[name];
      node.querySelector(".band").setAttribute("x", at(low));
      node.querySelector(".band").setAttribute("width", at(high - low));
      node.querySelector(".mark").setAttribute("x", at(value));
      const limits = data.models[node.dataset.model].limits.filter((limit) => limit.figure === name);
      node.querySelectorAll(".limit").forEach((line, index) => line.setAttribute("x", at(limits[index].amount)));
    }
  }

  function writeVerdicts(results) {
    byId("headline").textContent = headline(results);
    const every = results.flatMap(({ verdicts }) => verdicts);
    if (!every.length) return;
    byId("verdict").dataset.state = every.some((one) => one.exceeded) ? "exceeds" : "fits";
    const [{ figures, verdicts }] = results;
    for (const node of all("[data-limit]")) {
      const verdict = verdicts[node.dataset.limit];
      node.dataset.state = state(verdict);
      node.querySelector("span").textContent = sentence(verdict);
    }
    const exceeded = verdicts.filter((one) => one.exceeded);
    writeList("would-fit", exceeded.flatMap((one) => wouldFit(one, figures)));
    for (const node of all("[data-verdict]")) {
      const verdict = worst(results[node.dataset.model].verdicts);
      const template = verdict.exceeded ? "short_exceeded" : "short_kept";
      node.dataset.state = state(verdict);
      node.textContent = fill(template, { percent: percent(verdict), text: verdict.limit.text });
    }
  }

  function made(name, text = "", attributes = {}) {
    const node = document.createElement(name);
    node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  }

  function writeGrids(results, settings) {
    const rows = [...data.grids];
    if (!rows.some(([code]) => code === settings.region)) {
      rows.push(regions.get(settings.region));
    }
    rows.sort((one, other) => one[2] - other[2] || (one[0] < other[0] ? -1 : 1));
    const most = Math.max(...rows.map(([, , grams]) => grams));
    const columns = [...all("#grids thead th")].slice(2).map((node) => node.textContent);
    const body = document.querySelector("#grids tbody");
    body.replaceChildren(...rows.map((row) => gridRow(row, results, settings, most, columns)));
  }

  function gridRow([code, name, grams, note], results, settings, most, columns) {
    const row = made("tr", "", { "data-region": code });
    const own = code === settings.region;
    if (own) row.setAttribute("aria-current", "true");
    const head = made("th", name, { scope: "row" });
    if (own) head.append(made("small", data.words.this_run));
    if (note) head.append(made("small", note));
    const intensity = made("td", "", { "data-label": "g CO2e per kWh" });
    const bar = levelBar.cloneNode(true);
    bar.firstChild.setAttribute("width", `${(most ? (100 * grams) / most : 0).toFixed(2)}%`);
    intensity.append(made("span", number(grams)), bar);
    row.append(head, intensity);
    data.ranked.forEach((model, index) => {
      const kg = results[model].figures.facility_energy_kwh.value * (grams / 1000);
      const text = inUnit(exact(kg), data.units.co2e_kg).slice(0, 2).join(" ");
      const cell = made("td", "", { "data-label": columns[index] });
      cell.append(made("data", text, { value: String(kg) }));
      row.append(cell);
    });
    return row;
  }

  // -- the controls --------------------------------------------------------------------------------

  const levelBar = document.querySelector(".level-bar").cloneNode(true);
  const regions = new Map([...data.regions, ...data.grids, data.own].map((row) => [row[0], row]));
  const sliders = Object.keys(data.stops).filter((key) => byId(key));
  const least = { length: Number.MIN_VALUE, pue: 1, price: 0 };

  function settingsNow() {
    const region = byId("region").value;
    const settings = { region, carbon: regions.get(region)[2] };
    for (const key of Object.keys(data.stops)) settings[key] = Number(byId(key)?.value ?? data.settings[key]);
    return settings;
  }

  function recompute() {
    if (!usable()) return;
    const settings = settingsNow();
    const results = data.models.map((model) => {
      const figures = figuresOf(model, settings);
      return { figures, verdicts: model.limits.map((limit) => compared(limit, figures)) };
    });
    write(results, settings);
  }

  // A number that cannot be used marks its field, and the page keeps the figures of the last one that could.
  function usable() {
    return sliders.every((key) => {
      const field = byId(key);
      const amount = field.value === "" ? NaN : Number(field.value);
      const whole = key !== "length" || data.length_unit === "epochs" || Number.isInteger(amount);
      const good = Number.isFinite(amount) && amount >= least[key] && whole;
      field.setAttribute("aria-invalid", String(!good));
      return good;
    });
  }

  function placeSlider(key) {
    const amount = Number(byId(key).value);
    const distances = data.stops[key].map((stop) => Math.abs(Number(stop) - amount));
    const slider = byId(`${key}-slider`);
    slider.value = String(distances.indexOf(Math.min(...distances)));
    slider.setAttribute("aria-valuetext", byId(key).value);
  }

  function reset() {
    for (const key of sliders) {
      byId(key).value = data.settings[key];
      placeSlider(key);
    }
    byId("region").value = data.settings.region;
  }

  function fillRegions() {
    const named = [...data.regions].sort((one, other) => one[1].localeCompare(other[1], "en"));
    const options = named.map(([code, name, grams]) => made("option", `${name} (${code}), ${number(grams)} g`, { value: code }));
    const [own, name, grams] = data.own;
    if (!data.regions.some(([code]) => code === own)) {
      options.unshift(made("option", `${name}, ${number(grams)} g`, { value: own }));
    }
    byId("region").replaceChildren(...options);
  }

  fillRegions();
  for (const key of sliders) {
    const slider = byId(`${key}-slider`);
    slider.max = String(data.stops[key].length - 1);
    slider.addEventListener("input", () => {
      byId(key).value = data.stops[key][slider.value];
      slider.setAttribute("aria-valuetext", byId(key).value);
      recompute();
    });
    byId(key).addEventListener("input", () => {
      if (byId(key).value !== "") placeSlider(key);
      recompute();
    });
  }
  byId("region").addEventListener("input", recompute);
  byId("reset").addEventListener("click", () => {
    reset();
    recompute();
  });
  window.addEventListener("beforeprint", () => all("details").forEach((node) => { node.open = true; }));
  reset();
  recompute();
  byId("what-if").hidden = false;
})();
