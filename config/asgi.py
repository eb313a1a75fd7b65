"""One port for everything: sockets go to Channels, HTTP goes to Django's WSGI application in threads.

Django's own ASGI handler would give each request a new thread, and so a new database connection. Measured, throughput
would fall to a half or a quarter.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from channels.routing import ProtocolTypeRouter
from django.conf import settings

from config.bridge import WsgiThreads
from config.wsgi import application as wsgi
from trades.consumers import websocket_application

application = ProtocolTypeRouter({"http": WsgiThreads(wsgi, settings.WEB_THREADS), "websocket": websocket_application})
