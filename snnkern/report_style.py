"""How the report looks: light or dark as the reader likes it, on paper, and on a telephone."""

STYLE = """
:root { color-scheme: light dark; --text: #1b1b1b; --soft: #555; --page: #fff; --line: #d5d5d5; --band: #f4f4f4;
  --link: #0a58a6; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --soft: #aaa; --page: #16181b; --line: #3a3d42; --band: #202327; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.8rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p, ul { max-width: 44rem; }
a { color: var(--link); }
.lead { font-size: 1.1rem; color: var(--soft); margin: 0; }
nav ol { columns: 18rem; padding-left: 1.3rem; }
figure { margin: 1.6rem 0 2rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; padding: .4rem; }
figcaption { max-width: 44rem; margin-top: .5rem; font-size: .92rem; color: var(--soft); }
figcaption strong { color: var(--text); }
.note { font-size: .92rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: 1rem 0; }
figure .scroll { margin: 0; }
.wide img { min-width: 42rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
thead th, thead + tbody td { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--band); padding: .1em .3em;
  border-radius: 3px; overflow-wrap: anywhere; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .9rem; }
@media print { nav, footer { display: none; } figure { break-inside: avoid; } }
"""
