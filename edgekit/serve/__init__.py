"""The server: an OpenAI-compatible HTTP API, and a page, over engines that each run in a process of their own.

    http/       the front door: the socket's protocol and its limits, who may come in, errors as answers
    api/        one file a group of routes: what clients say becomes a `Job`, what an engine answers their format
    engines/    the processes: started, fed, watched, restarted, unloaded
    page/       static files
    ray.py      all of it as a deployment of Ray Serve, on several machines

Imports run downwards: `edgekit serve` puts the routes of api behind http's door; api reads and refuses by http's words
and asks engines, which know jobs alone.
"""
