"""How reports look: one stylesheet for light and dark, one palette that colour-blind readers can tell apart."""

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours."""

STYLESHEET = """
:root {
  color-scheme: light dark;
  --ink: #1c2430; --paper: #ffffff; --soft: #5b6675; --line: #d9dfe7; --panel: #f5f7fa;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --paper: #14181f; --soft: #9aa5b4; --line: #313a47; --panel: #1c222b; }
  figure { background: #ffffff; }
}
body {
  font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1.2rem; max-width: 60rem;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: .2rem 0 .6rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
.asked { color: var(--soft); margin: 0; }
.answer {
  font-size: 1.15rem; background: var(--panel); border-left: 4px solid #0072b2;
  padding: .8rem 1rem; margin: .8rem 0;
}
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; margin: .6rem 0 .2rem; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: left; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
th.number { text-align: right; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.note, .small { color: var(--soft); font-size: .88rem; margin: .2rem 0 1rem; }
figure { margin: 1rem 0; padding: .4rem; border-radius: 4px; }
figure svg, figure img { max-width: 100%; height: auto; }
figcaption { color: #5b6675; font-size: .88rem; }
code { background: var(--panel); padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 480px) {
  body { padding: .8rem; font-size: 15px; }
  h1 { font-size: 1.25rem; }
  dl { grid-template-columns: 1fr; }
}
"""
