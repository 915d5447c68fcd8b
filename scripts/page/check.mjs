// Opens pages in a real browser and fails on whatever a reader would stumble over: a console error, a
// request, a horizontal scroll bar, a violation that axe finds, a script that a file's text smuggled
// in. `node check.mjs BROWSER MODULES PICTURES PAGE…`
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [browserPath, modules, pictures, ...pages] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const VIEWS = [
  { name: "1280-light", width: 1280, colorScheme: "light" },
  { name: "1280-dark", width: 1280, colorScheme: "dark" },
  { name: "390-light", width: 390, colorScheme: "light" },
  { name: "390-dark", width: 390, colorScheme: "dark" },
  { name: "print", width: 794, colorScheme: "dark", media: "print" },
];
const HOSTILE = "window.hacked";

mkdirSync(pictures, { recursive: true });
// Its own sandbox needs rights that root in a container lacks; it shows nothing but our own files.
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });
let failed = 0;
let passed = 0;

async function check(page, view) {
  const faults = [];
  const context = await browser.newContext({
    viewport: { width: view.width, height: 900 },
    colorScheme: view.colorScheme,
    deviceScaleFactor: 1,
  });
  const tab = await context.newPage();
  const url = pathToFileURL(resolve(page)).href;
  tab.on("console", (m) => ["error", "warning"].includes(m.type()) && faults.push(`console: ${m.text()}`));
  tab.on("pageerror", (e) => faults.push(`error: ${e.message}`));
  tab.on("dialog", (d) => { faults.push(`dialog: ${d.message()}`); d.dismiss(); });
  tab.on("request", (r) => r.url() !== url && faults.push(`request: ${r.url().slice(0, 100)}`));
  await tab.emulateMedia({ media: view.media ?? "screen", colorScheme: view.colorScheme });
  await tab.goto(url, { waitUntil: "load" });
  await tab.screenshot({ path: join(pictures, `${basename(page, ".html")}-${view.name}.png`), fullPage: true });
  // What lies in folds is read too.
  await tab.evaluate(() => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  const wide = await tab.evaluate(() => {
    const room = document.documentElement.clientWidth;
    const inScroller = (e) => e.closest(".wide-table") && !e.matches(".wide-table");
    const over = [...document.querySelectorAll("body *")].filter(
      (e) => e.getBoundingClientRect().right > room + 1 && !inScroller(e) && !e.closest("svg"));
    return { scroll: document.documentElement.scrollWidth, room, over: over.slice(0, 3).map((e) => e.outerHTML.slice(0, 120)) };
  });
  if (view.media !== "print" && (wide.scroll > wide.room || wide.over.length > 0)) {
    faults.push(`horizontal scroll: ${wide.scroll} of ${wide.room} px; ${wide.over.join(" | ")}`);
  }
  if (await tab.evaluate((name) => eval(`typeof ${name}`) !== "undefined", HOSTILE).catch(() => false)) {
    faults.push("a script of the file's text ran");
  }
  const plots = await tab.evaluate(() => [...document.querySelectorAll("svg.plot")].filter(
    (s) => s.checkVisibility() && !(s.getAttribute("aria-label") ?? "").trim()).length);
  if (plots > 0) faults.push(`${plots} plots without a text alternative`);
  await tab.evaluate(axe);
  const found = await tab.evaluate((rules) => axe.run({ runOnly: { type: "tag", values: rules } }), RULES);
  for (const v of found.violations) {
    const nodes = v.nodes.slice(0, 3).map((n) => `${n.target.join(" ")}: ${n.failureSummary.replaceAll("\n", " ")}`);
    faults.push(`axe ${v.id} (${v.impact}), ${v.nodes.length}×: ${nodes.join(" | ").slice(0, 700)}`);
  }
  await context.close();
  return { faults, rules: found.passes.length };
}

for (const page of pages) {
  for (const view of VIEWS) {
    const { faults, rules } = await check(page, view);
    const name = `${basename(page)} ${view.name}`;
    if (faults.length === 0) {
      passed += 1;
      console.log(`ok   ${name}: no console message, no request, no horizontal scroll, ${rules} axe rules`);
    } else {
      failed += 1;
      console.log(`FAIL ${name}`);
      faults.forEach((fault) => console.log(`     ${fault}`));
    }
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
