from django.urls import path

from portal import copying, fees, reference, setup, trust, views, wallet, withdrawals

app_name = "portal"
urlpatterns = [
    path("", views.desk, name="desk"),
    path("docs/", reference.index, name="reference"),
    path("docs/vectors.json", reference.vectors, name="vectors"),
    path("docs/<slug:name>/", reference.page, name="reference-page"),
    path("wallet/", wallet.wallet, name="wallet"),
    path("wallet/withdraw/", withdrawals.withdraw, name="withdraw"),
    path("wallet/requests/<uuid:request_id>/take-back/", withdrawals.take_back, name="take-back"),
    path("wallet/destinations/", withdrawals.add_destination, name="add-destination"),
    path("wallet/destinations/<uuid:ref>/remove/", withdrawals.remove_destination, name="remove-destination"),
    path("wallet/statements/<str:month>/", wallet.statement, name="statement"),
    path("wallet/fees/<int:agreement_id>/<int:period_no>/", wallet.fee, name="fee"),
    path("copying/", copying.copying, name="copying"),
    path("copying/<str:sub_id>/settings/", copying.settings, name="copying-settings"),
    path("copying/<str:sub_id>/fees/", fees.fees_of, name="copying-fees"),
    path("copying/<str:sub_id>/pause/", copying.pause, name="copying-pause"),
    path("copying/<str:sub_id>/resume/", copying.resume, name="copying-resume"),
    path("copying/<str:sub_id>/end/", copying.end, name="copying-end"),
    path("copying/<str:sub_id>/setup/", setup.setup, name="copying-setup"),
    path("copying/<str:sub_id>/secret/", copying.secret, name="copying-secret"),
    path("copying/<str:sub_id>/overdue/<uuid:trade_id>/", copying.settle, name="copying-settle"),
    path("copying/<str:sub_id>/receipts/<uuid:trade_id>/", copying.receipt, name="receipt"),
    path("strategies/<str:name>/copies/", copying.copies, name="copies"),
    path("trust/", trust.scores, name="trust"),
    path("trust/appeal/", trust.appeal, name="appeal"),
]
