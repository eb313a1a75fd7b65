"""The calendars that every desk begins with, and the one that a new instrument takes. Pure.

Currencies and metals trade from Sunday to Friday 17:00 New York time, metals and energies with an hour of break a day.
"""

CURRENCIES, METALS, ALWAYS = "Currencies", "Metals and energies", "Always open"
NEW_YORK = "America/New_York"
SESSIONS = {
    CURRENCIES: (NEW_YORK, "Sun-Thu 17:00-17:00"),
    METALS: (NEW_YORK, "Sun-Thu 18:00-17:00"),
    ALWAYS: ("UTC", "Sun-Sat 00:00-00:00"),
}
# Every year. Other holidays depend on the exchange and are entered by staff.
HOLIDAYS = (("2000-12-25", "Christmas"), ("2000-01-01", "New Year"))
WITH_HOLIDAYS = (CURRENCIES, METALS)
OF_CLASS = {"FOREX": CURRENCIES, "METAL": METALS, "ENERGY": METALS, "CRYPTO": ALWAYS}
