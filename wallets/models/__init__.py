"""The tables of wallets: the ledger, the requests that move money, and fees."""

from wallets.models.fees import FeeAcceptance as FeeAcceptance
from wallets.models.fees import FeeAgreement as FeeAgreement
from wallets.models.fees import FeeClaim as FeeClaim
from wallets.models.fees import FeeNotice as FeeNotice
from wallets.models.fees import FeeNoticeQuerySet as FeeNoticeQuerySet
from wallets.models.fees import FeeRefund as FeeRefund
from wallets.models.fees import FeeTerms as FeeTerms
from wallets.models.fees import Settlement as Settlement
from wallets.models.ledger import LedgerEntry as LedgerEntry
from wallets.models.ledger import LedgerHalt as LedgerHalt
from wallets.models.ledger import LedgerRequest as LedgerRequest
from wallets.models.ledger import LedgerTransfer as LedgerTransfer
from wallets.models.ledger import TransferKind as TransferKind
from wallets.models.ledger import Wallet as Wallet
from wallets.models.ledger import WalletHold as WalletHold
from wallets.models.money_requests import Destination as Destination
from wallets.models.money_requests import MoneyMover as MoneyMover
from wallets.models.money_requests import MoneyRequest as MoneyRequest
from wallets.models.money_requests import MoneySetting as MoneySetting
