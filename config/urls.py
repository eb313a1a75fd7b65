"""Every route of the desk, once."""

from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularSwaggerSplitView

from accounts import resets, sign_in
from config import health, openapi
from config.access import by_policy
from config.drill import admin_page
from portal import views as portal
from trades import api
from trades.api import candles, copiers
from trust import api as trust
from wallets import api as wallets

bots = [
    path("api/v2/time", api.Time.as_view(), name="time"),
    path("api/v2/trades/active", api.Active.as_view(), name="active"),
    path("api/v2/trades/active/batch", api.Batch.as_view(), name="batch"),
    path("api/v2/trades/active/<str:ticket>", api.ActiveOne.as_view(), name="active-one"),
    path("api/v2/trades/active/<str:ticket>/reduce", api.Reduce.as_view(), name="reduce"),
    path("api/v2/trades/orders", api.Orders.as_view(), name="orders"),
    path("api/v2/account/alarms", copiers.Alarms.as_view(), name="account-alarms"),
    path("api/v2/copier/beat", copiers.Heartbeat.as_view(), name="copier-beat"),
    path("api/v2/copier/skips", copiers.Skips.as_view(), name="copier-skips"),
    path("api/v2/account", copiers.Account.as_view(), name="account"),
    path("api/v2/actives", api.Actives.as_view(), name="actives"),
    path("api/v2/signal/close", api.SignalClose.as_view(), name="signal-close"),
    path("signals", api.V1Signals.as_view(), name="v1-signals"),
    path("signal/broadcast", api.V1Broadcast.as_view(), name="v1-broadcast"),
    path("signal/close", api.V1Close.as_view(), name="v1-close"),
]
people = [
    path("api/v2/trades/history", api.History.as_view(), name="history"),
    path("api/v2/trades/history.csv", api.HistoryCsv.as_view(), name="history-csv"),
    path("api/v2/candles/<path:symbol>", candles.Candles.as_view(), name="candles"),
    path("api/v2/wallets/me", wallets.Wallet.as_view(), name="wallet"),
    path("api/v2/wallets/me/entries", wallets.Entries.as_view(), name="wallet-entries"),
    path("api/v2/wallets/me/statement.csv", wallets.StatementCsv.as_view(), name="wallet-statement-csv"),
    path("api/v2/wallets/me/withdrawals", wallets.Withdrawals.as_view(), name="wallet-withdrawals"),
    path("api/v2/trust/me", trust.Scores.as_view(), name="trust"),
    path("api/v2/trust/me/appeals", trust.Appeals.as_view(), name="trust-appeals"),
]
urlpatterns = [
    *bots,
    *people,
    path("api/schema/", by_policy("DOCS")(openapi.Document.as_view()), name="schema"),
    path("api/docs/", by_policy("DOCS")(SpectacularSwaggerSplitView.as_view(url_name="schema")), name="docs"),
    re_path(r"^(?:api|signals?)(?:/|$)", health.unknown_route),
    path("healthz", health.alive),
    path("readyz", health.ready),
    path("metrics", health.metrics),
    path("login/", sign_in.SignIn.as_view(), name="login"),
    path("logout/", sign_in.SignOut.as_view(), name="logout"),
    path("login/other/", portal.sign_in_as_another, name="logout-and-in"),
    path("password-reset/", resets.Ask.as_view(), name="password-reset"),
    path("password-reset/sent/", resets.Sent.as_view(), name="password-reset-sent"),
    path("password-reset/done/", resets.Done.as_view(), name="password-reset-done"),
    path("password-reset/<slug:uidb64>/<slug:token>/", resets.Choose.as_view(), name="password-reset-choose"),
    path("admin/zombie-drill/", admin_page.page, name="zombie-drill"),
    path("admin/", admin.site.urls),
    path("", include("portal.urls")),
]
handler500 = "config.health.server_error"
