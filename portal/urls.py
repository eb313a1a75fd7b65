from django.urls import path

from portal import trust, views, wallet

app_name = "portal"
urlpatterns = [
    path("", views.desk, name="desk"),
    path("wallet/", wallet.wallet, name="wallet"),
    path("wallet/withdraw/", wallet.withdraw, name="withdraw"),
    path("wallet/requests/<uuid:request_id>/take-back/", wallet.take_back, name="take-back"),
    path("wallet/agreements/<int:agreement_id>/accept/", wallet.accept_terms, name="accept-terms"),
    path("wallet/statements/<str:month>/", wallet.statement, name="statement"),
    path("wallet/fees/<int:agreement_id>/<int:period_no>/", wallet.fee, name="fee"),
    path("trust/", trust.standing, name="trust"),
    path("trust/appeal/", trust.appeal, name="appeal"),
]
