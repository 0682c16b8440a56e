"""The engines: each model in a process of its own, started, fed, watched, restarted and unloaded by the server.

    served      which artifacts and levels are served, and what their manifests say of them
    pool        `Engines`, all that the routes ask: which engine is loaded, which makes room
    engine      one model: its process, and what that is told and says
    line        its requests: who waits, and who may begin
    requests    one job on its way, and what came of it
    suspects    which jobs crashed an engine
    state       how engines are run, and how one is
    child       the server's end of a process: threads that read and write its pipes
    channel     frames on a pipe
    process     the other end: the process itself
    room        memory: what a model needs, and what is free
    errors      what a request is told when its engine cannot answer

Whoever imports these loads no library that runs models: that happens in the processes.
"""
