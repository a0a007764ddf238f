"""Content-Security-Policy of every page: nothing is fetched or run but what the policy names."""


def content_policy(
    scripts: str = "'none'",
    styles: str = "'unsafe-inline'",
    pictures: str = "data:",
    requests: str = "'none'",
    is_header: bool = False,
) -> str:
    """Return the policy of a page.

    Args:
        scripts: sources of the scripts that run, such as 'sha256-...'; default: none runs.
        styles: sources of styles.
        pictures: sources of pictures.
        requests: servers that scripts may ask.
        is_header: whether a server sends it: then no other page may frame this one, which a page cannot say.
    """
    allowed = {"script-src": scripts, "style-src": styles, "img-src": pictures, "connect-src": requests}
    # The default does not hold for these.
    forbidden = ["base-uri", "form-action", *(["frame-ancestors"] if is_header else [])]
    parts = ["default-src 'none'", *(f"{name} {sources}" for name, sources in allowed.items())]
    return "; ".join(parts + [f"{name} 'none'" for name in forbidden])
