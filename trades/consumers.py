"""stub until the hub"""


async def websocket_application(scope, receive, send):
    await send({"type": "websocket.close"})
