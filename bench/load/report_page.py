"""The page that a report stands in: its style, a little script, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#16191f;--soft:#565d69;--rule:#e2e5ea;--base:#8a919d;
--s1:#2563c9;--s2:#c2570c;--s3:#0b7f6b;--s4:#8b3fb8;--s5:#a1741a;--good:#12753c;--good-bg:#e2f4e8;--bad:#b3261e;
--bad-bg:#fce8e6;--shade:#d0342c}
@media(prefers-color-scheme:dark){:root{--page:#12151a;--card:#1b1f26;--ink:#eceff4;--soft:#a4adba;--rule:#2e343e;
--base:#727c8a;--s1:#6ea8ff;--s2:#f5995a;--s3:#3fc7ab;--s4:#c792ea;--s5:#dfb45a;--good:#74d99b;--good-bg:#16321f;
--bad:#ff9a92;--bad-bg:#3b1a18;--shade:#ff6b61}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
h1{font-size:26px;line-height:1.2;margin:0 0 2px}
h2{font-size:17px;margin:0 0 2px}
p{margin:0}
.soft{color:var(--soft)}
.verdict{margin:18px 0;padding:14px 18px;border-radius:10px;border-left:6px solid}
.verdict strong{font-size:18px}
.verdict ul{margin:4px 0 0;padding-left:20px}
.held{background:var(--good-bg);border-color:var(--good)}
.held strong{color:var(--good)}
.failed{background:var(--bad-bg);border-color:var(--bad)}
.failed strong{color:var(--bad)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:10px;margin:0 0 18px;padding:0}
.facts div{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 14px}
.facts dt{color:var(--soft);font-size:13px}
.facts dd{margin:0}
.facts .value{font-size:23px;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums}
.facts .remark{color:var(--soft);font-size:12.5px;line-height:1.35}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px;margin:0 0 16px}
.beside{display:grid;grid-template-columns:minmax(0,1fr);gap:6px 28px;align-items:start}
@media(min-width:960px){.beside{grid-template-columns:minmax(0,1.75fr) minmax(0,1fr)}}
.beside>*{min-width:0}
figure{margin:8px 0 0;position:relative}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:6px 0 2px;padding:0;list-style:none;font-size:13px}
.legend li::before{content:"";display:inline-block;width:16px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:middle;background:currentColor}
.legend li.shade::before{height:12px;opacity:.3}
.legend span{color:var(--ink)}
svg.plot{display:block;width:100%;height:auto;touch-action:pan-y;font:12px system-ui,sans-serif}
.narrow{display:none}
@media(max-width:560px){.wide{display:none}.narrow{display:block}main,header{padding-left:12px;padding-right:12px}
section{padding:14px 12px}.facts{grid-template-columns:repeat(2,1fr)}.facts .value{font-size:20px}}
.grid{stroke:var(--rule)}.base{stroke:var(--base)}.mark{stroke:var(--base);stroke-dasharray:2 4}
.tick,.axis,.mark-name{fill:var(--soft)}.shade{fill:var(--shade);fill-opacity:.13}.shade-name{fill:var(--bad)}
.label{fill:var(--ink);font-size:13px}.label.ours{font-weight:700}
.bar{fill:var(--base)}.bar.ours{fill:var(--s1)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.area{stroke:none;fill-opacity:.12}
.line.s1{stroke:var(--s1)}.line.s2{stroke:var(--s2)}.line.s3{stroke:var(--s3)}.line.s4{stroke:var(--s4)}
.line.s5{stroke:var(--s5)}
.area.s1,.dot.s1{fill:var(--s1)}.area.s2,.dot.s2{fill:var(--s2)}.area.s3,.dot.s3{fill:var(--s3)}
.area.s4,.dot.s4{fill:var(--s4)}.area.s5,.dot.s5{fill:var(--s5)}
li.s1{color:var(--s1)}li.s2{color:var(--s2)}li.s3{color:var(--s3)}li.s4{color:var(--s4)}li.s5{color:var(--s5)}
li.shade{color:var(--shade)}
.here line{stroke:var(--base)}.here circle{stroke:var(--card);stroke-width:2}
.tip{position:absolute;z-index:2;pointer-events:none;background:var(--ink);color:var(--page);border-radius:6px;
padding:5px 9px;font-size:12.5px;line-height:1.4;white-space:nowrap;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;margin-top:8px}
.tall{max-height:320px;overflow:auto}
:focus-visible{outline:2px solid var(--s1);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:4px}
th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
th{font-weight:600;color:var(--soft)}
thead th{white-space:normal;vertical-align:bottom}tbody th{color:var(--ink);font-weight:500}
td.words{white-space:normal;text-align:left;min-width:11em}
.sort td:nth-child(2),.sort th:nth-child(2){text-align:left;white-space:normal;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft);font-size:13.5px;margin-top:8px}
pre{overflow-x:auto;font:12.5px/1.5 ui-monospace,monospace;margin:8px 0 0}
footer{color:var(--soft);font-size:13px;padding:4px 0 32px}
@media print{.tip,.here{display:none}section{break-inside:avoid}}
"""

SCRIPT: Final = """
for(const svg of document.querySelectorAll('svg[data-hover]')){
const rows=JSON.parse(svg.dataset.hover),here=svg.querySelector('.here'),line=here.querySelector('line');
const figure=svg.closest('figure');let tip=null;
const leave=()=>{here.setAttribute('hidden','');here.style.display='none';if(tip){tip.remove();tip=null}};
leave();
svg.addEventListener('pointermove',event=>{
if(!rows.length)return;
const box=svg.getBoundingClientRect(),scale=svg.viewBox.baseVal.width/box.width,at=(event.clientX-box.left)*scale;
let row=rows[0];for(const one of rows)if(Math.abs(one[0]-at)<Math.abs(row[0]-at))row=one;
here.removeAttribute('hidden');here.style.display='';line.setAttribute('x1',row[0]);line.setAttribute('x2',row[0]);
for(const dot of here.querySelectorAll('circle'))dot.remove();
for(const [kind,y] of row[2]){const dot=document.createElementNS(svg.namespaceURI,'circle');
dot.setAttribute('class','dot '+kind);dot.setAttribute('cx',row[0]);dot.setAttribute('cy',y);dot.setAttribute('r',4);
here.append(dot)}
if(!tip){tip=document.createElement('div');tip.className='tip';figure.append(tip)}
tip.replaceChildren(...row[1].map(words=>{const one=document.createElement('div');one.textContent=words;return one}));
const x=row[0]/scale,left=x+12+tip.offsetWidth<box.width?x+12:Math.max(0,x-12-tip.offsetWidth);
tip.style.left=left+'px';tip.style.top=(svg.getBoundingClientRect().top-figure.getBoundingClientRect().top+34)+'px'});
svg.addEventListener('pointerleave',leave)}
"""


def page(title: str, body: str) -> str:
    """The whole document. `title` is plain text, `body` is HTML."""
    # By their hashes, so that nothing that found its way into a text can run.
    policy = f"default-src 'none'; style-src '{_hash(STYLE)}'; script-src '{_hash(SCRIPT)}'; base-uri 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="referrer" content="no-referrer"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
