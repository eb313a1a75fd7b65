"""The desk's ASGI application with one lane for all: the control of tests/config/test_floods.py."""

from channels.routing import ProtocolTypeRouter

from config import asgi
from config.bridge import WsgiThreads
from config.wsgi import application as wsgi

http = WsgiThreads(wsgi, bots=1, people=4, exports=1, bots_paths=())
application = ProtocolTypeRouter({"http": http, "websocket": asgi.application.application_mapping["websocket"]})
