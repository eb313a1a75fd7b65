"""The WSGI application, which handles every HTTP request."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.wsgi import get_wsgi_application

from config import checks

application = get_wsgi_application()
checks.refuse_unsafe()  # a server runs no system checks of its own
