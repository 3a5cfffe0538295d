"use strict";
// Numbers as people read them, written as estimator/answer/figures.py writes them.

// The first `count` digits of a number above 0, half to even as Python rounds, and the power of the first.
function digitsOf(size, count) {
  const [mantissa, power] = size.toExponential(100).split("e");
  const digits = mantissa.replace(".", "");
  const rest = digits.slice(count);
  const half = "5".padEnd(rest.length, "0");
  let kept = BigInt(digits.slice(0, count));
  if (rest > half || (rest === half && kept % 2n === 1n)) kept += 1n;
  const text = kept.toString();
  return text.length > count ? [text.slice(0, count), Number(power) + 1] : [text, Number(power)];
}

function placed(digits, power) {
  if (power < 0) return `0.${"0".repeat(-power - 1)}${digits}`;
  const whole = digits.slice(0, power + 1).padEnd(power + 1, "0");
  const fraction = digits.slice(power + 1);
  return fraction ? `${whole}.${fraction}` : whole;
}

const commas = (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ",");
const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
// Python's format "g".
function general(size, count) {
  const [digits, power] = digitsOf(size, count);
  if (power >= -4 && power < count) return trimmed(placed(digits, power));
  const sign = power < 0 ? "-" : "+";
  return `${trimmed(placed(digits, 0))}e${sign}${String(Math.abs(power)).padStart(2, "0")}`;
}

// Without the noise of a float's last bits.
const clean = (value) => Number(value.toPrecision(12));

// Three significant digits, thousands separated.
function number(value) {
  const size = clean(value);
  if (size === 0) return "0";
  if (size >= 1e7 || size < 1e-9) return general(size, 3);
  const power = Number(size.toExponential().split("e")[1]);
  if (size >= 100) return commas(placed(...digitsOf(size, power + 1)));
  const [digits, rounded] = digitsOf(size, 3);
  return placed(digits, rounded);
}

// An interval in the unit that fits its value: ["1.23", "kWh", "0.98 to 1.60 kWh"].
function inUnit(interval, units) {
  const [factor, unit] = units.find(([one]) => clean(interval.value) >= one) ?? units.at(-1);
  const [value, low, high] = [interval.value, interval.low, interval.high].map((one) => number(one / factor));
  return [value, unit, `${low} to ${high} ${unit}`];
}
