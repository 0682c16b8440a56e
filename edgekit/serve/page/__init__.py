"""The page that the server shows at `/`: static files, and what a browser is told about them.

    files.py    the routes
    static/     index.html, two style sheets, and modules: app.js starts the parts in parts/, which share a session

Nothing is built and nothing is fetched from elsewhere. A new part of the page is a module in parts/, its element in
index.html, and a line in app.js.
"""

from edgekit.serve.page.files import routes

__all__ = ["routes"]
