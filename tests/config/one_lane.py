"""The desk's ASGI application with one lane for all, and without the limits by address that would end a flood: the
control of tests/config/test_floods.py."""

from channels.routing import ProtocolTypeRouter

from config import asgi
from config.bridge import WsgiThreads
from config.wsgi import application as wsgi
from core import limiting

limiting.spend = lambda *_: None
limiting.is_spent = lambda *_: False
http = WsgiThreads(wsgi, bots=1, people=4, exports=1, bots_paths=())
application = ProtocolTypeRouter({"http": http, "websocket": asgi.application.application_mapping["websocket"]})
