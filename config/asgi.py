"""One port for everything: sockets go to Channels, HTTP goes to Django's WSGI application in threads.

Django's own ASGI handler would give each request a new thread, and so a new database connection. Measured, throughput
would fall to a half or a quarter.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

import structlog
from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.urls import reverse

from config.bridge import WsgiThreads
from config.middleware import BOT_ROUTES
from config.wsgi import application as wsgi
from core import descriptors
from market.services import uploads
from trades.consumers import websocket_application

structlog.get_logger().info("descriptors.shared", **descriptors.shares())
http = WsgiThreads(
    wsgi,
    bots=settings.WEB_THREADS,
    people=settings.PEOPLE_THREADS,
    exports=settings.EXPORT_THREADS,
    bots_paths=(*BOT_ROUTES, "/healthz", "/readyz"),
    uploads={reverse("admin:market_candleimport_add"): uploads.LARGEST + 2**20},
)
application = ProtocolTypeRouter({"http": http, "websocket": websocket_application})
