"""The front door: what comes in over a socket is bounded, checked and allowed in, and every error leaves as one answer.

limits.py     every bound, as numbers
wire.py       bytes of HTTP/1.1 checked before anything parses or keeps them; knows no sockets
protocol.py   uvicorn's protocol behind that, with the time-outs that it lacks
guard.py      who may come in: Host, origin, key, content type; security headers on every answer
keys.py       the file of API keys
json_body.py  a request's body as JSON that has one meaning
errors.py     what is refused here; answers.py has the status and the words of it, and of every other error
traffic.py    counts what runs, and logs it by route alone
metrics.py    the figures at /metrics
house.py      /health, /metrics, /props, /terms
app.py        all of it as one ASGI application; server.py runs it, and ends it gently
"""
