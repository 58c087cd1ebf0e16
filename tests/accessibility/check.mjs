// Checks report pages with axe-core, in the light and the dark scheme, on a phone and a desktop, with everything opened, and
// that no page loads anything or is wider than the screen. Needs Node 20 and Chromium (CHROME, or `chromium` in /usr/bin):
//
//   mkdir -p target/accessibility && cp tests/accessibility/* target/accessibility && cd target/accessibility
//   npm install --ignore-scripts && node check.mjs ../tmp/*.html
//
// `cargo test --test html` leaves pages in target/tmp. Exit code 1 when there is a violation.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import puppeteer from 'puppeteer-core';

const pages = process.argv.slice(2);
if (pages.length === 0) {
  console.error('usage: node check.mjs PAGE.html...');
  process.exit(2);
}
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const browser = await puppeteer.launch({
  executablePath: process.env.CHROME ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
});
let problems = 0;
const problem = (text) => {
  problems += 1;
  console.error(text);
};
for (const file of pages) {
  for (const scheme of ['light', 'dark']) {
    for (const width of [400, 1400]) {
      const where = `${file} (${scheme}, ${width} px)`;
      const page = await browser.newPage();
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      const address = pathToFileURL(resolve(file)).href;
      page.on('request', (r) => {
        if (r.url() !== address && !r.url().startsWith('data:')) problem(`${where}: loads ${r.url()}`);
      });
      await page.goto(address);
      const wide = await page.evaluate(() => {
        document.querySelectorAll('details').forEach((d) => { d.open = true; });
        return document.documentElement.scrollWidth - innerWidth;
      });
      if (wide > 0) problem(`${where}: ${wide} px wider than the screen`);
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
      for (const v of found.violations) {
        const nodes = v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join('; ');
        problem(`${where}: ${v.id} (${v.impact}): ${v.help}: ${v.nodes.length} at ${nodes}`);
      }
      console.log(`${where}: ${found.violations.length} violations, ${found.passes.length} rules passed`);
      await page.close();
    }
  }
}
await browser.close();
process.exit(problems > 0 ? 1 : 0);
