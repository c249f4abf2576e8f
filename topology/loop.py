"""The event loop of a process: uvloop's, where it is installed. The consumer's thread gets one too."""

import asyncio


def new_loop() -> asyncio.AbstractEventLoop:
    """Make the loop of this thread, and let those of other threads be of the same kind."""
    try:
        import uvloop
    except ImportError:
        pass
    else:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop
