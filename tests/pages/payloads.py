"""Texts that run as script where a page forgets to escape: as names, descriptions, model ids, errors.

Each sets `window.__xss` or opens a dialog when it runs.
"""

from __future__ import annotations

_RUN = "window.__xss=1"

PAYLOADS = (
    f"<script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"<ScRiPt>{_RUN}</sCrIpT>",
    f"<<script>{_RUN}//<</script>",
    "<script src=data:,window.__xss=1></script>",
    f'"><script>{_RUN}</script>',
    f"'><script>{_RUN}</script>",
    f"<img src=x onerror={_RUN}>",
    f'"><img src=x onerror="{_RUN}">',
    f"'><img src=x onerror='{_RUN}'>",
    f"<svg onload={_RUN}>",
    f"<svg/onload={_RUN}//",
    f"<svg><script>{_RUN}</script></svg>",
    f"<svg><animate onbegin={_RUN} attributeName=x dur=1s>",
    f"<math><mtext><script>{_RUN}</script>",
    f"<body onload={_RUN}>",
    f"<input autofocus onfocus={_RUN}>",
    f'" autofocus onfocus="{_RUN}" x="',
    f"' autofocus onfocus='{_RUN}' x='",
    f"<details open ontoggle={_RUN}>",
    f"<video><source onerror={_RUN}>",
    "<iframe srcdoc='<script>parent.__xss=1</script>'>",
    "<iframe src=javascript:parent.__xss=1>",
    "javascript:window.__xss=1",
    "<a href=javascript:window.__xss=1>press</a>",
    "<style>*{background:url(javascript:window.__xss=1)}</style>",
    "<meta http-equiv=refresh content='0;url=javascript:window.__xss=1'>",
    "{{ 7*7 }}{% debug %}${window.__xss=1}`alert(1)`",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)</script>",
    "\u2028<script>alert(1)</script>",
    "＜script＞alert(1)＜/script＞",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "<div hx-get=/ hx-trigger=load hx-on:load=window.__xss=1>",
    "<button formaction=javascript:alert(1)>press</button>",
    '\\"-alert(1)-"</script>',
)
